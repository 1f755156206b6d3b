"""A run that began with an earlier way of shuffling keeps it after an update of Cairn."""

from pathlib import Path

import pytest
from tests.lightning.test_library import fit, loader, made, points
from tests.support.every_stop import train
from tests.support.runs import Scored

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


class Seen(Scored):
    """Keeps the samples of all batches."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].flatten().tolist())
        return super().training_step(batch, batch_idx)


def test_a_trainer_of_an_old_run_that_fits_again_keeps_its_order_whatever_other_trainers_do(tmp_path, monkeypatch):
    old, new, resumed, other = Seen(), Seen(), Seen(), Seen()
    monkeypatch.setattr(shuffles, "NEWEST", "shuffled")
    fit(made(tmp_path / "old"), tmp_path, old, max_epochs=3)
    checkpoints = made(tmp_path)
    fit(checkpoints, tmp_path, Seen(), max_epochs=1)
    monkeypatch.undo()
    fit(made(tmp_path / "new"), tmp_path, new, max_epochs=3)
    again = made(tmp_path)
    trainer = fit(again, tmp_path, resumed, ckpt_path=again.resume(), max_epochs=2)
    fit(made(tmp_path / "other"), tmp_path, other, max_epochs=3)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(resumed, loader(), cairn.DataLoader(points(4), 2))
    assert other.seen == new.seen != old.seen
    assert resumed.seen == old.seen[8:]
    assert load(Path(again.last_model_path))["cairn"]["order"] == "shuffled"


def test_a_checkpoint_that_names_no_order_has_the_oldest():
    assert capture.way_of_shuffling({"format": 1}) == "shuffled"


def test_an_order_of_a_newer_version_is_refused_by_name():
    with pytest.raises(ResumeError, match="'braided', which this version of Cairn does not know: install"):
        capture.check({"format": 1, "order": "braided", "ranks": [{}]})
