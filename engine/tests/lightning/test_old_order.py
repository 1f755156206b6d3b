"""A run that began with an earlier way of shuffling keeps it after an update of Cairn."""

import pytest
from tests.support.every_stop import train

import cairn
from cairn.data import shuffles
from cairn.errors import ResumeError
from cairn.lightning import capture
from cairn.writing.load import load


def loaders():
    return (cairn.DataLoader(range(10), 2, shuffle=True, seed=5),)


def test_a_resumed_old_run_keeps_its_order_and_a_new_run_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffles, "NEWEST", "shuffled")
    old = train(loaders, tmp_path / "old", seed=1)
    monkeypatch.undo()
    new = train(loaders, tmp_path / "new", seed=1)
    assert old.seen != new.seen
    # A new run from the state of an old one (`ckpt_path=`) goes on in its order as well.
    middle = tmp_path / "old" / "epoch_000_batch_000003.ckpt"
    from_state = train(loaders, tmp_path / "from", seed=1, resume=middle)
    assert from_state.seen == old.seen[3:]
    newest = load(tmp_path / "from" / "last.ckpt")
    assert newest["cairn"]["order"] == "shuffled"
    between = train(loaders, tmp_path / "between", seed=1, resume=tmp_path / "old" / "epoch_000_batch_000005.ckpt")
    assert between.seen == old.seen[5:]
    again = train(loaders, tmp_path / "again", seed=1)
    assert again.seen == new.seen, "a fit after that of an old run is a new run"


def test_a_checkpoint_that_names_no_order_has_the_oldest():
    assert capture.way_of_shuffling({"format": 1}) == "shuffled"


def test_an_order_of_a_newer_version_is_refused_by_name():
    with pytest.raises(ResumeError, match="'braided', which this version of Cairn does not know: install"):
        capture.check({"format": 1, "order": "braided", "ranks": [{}]}, 1)
