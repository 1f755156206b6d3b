"""The id of a run for a tracker stays the same: from start to start, and if the folder is lost."""

import json

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.errors import ConfigError
from cairn.overview import below
from cairn.run.directory import newest
from cairn.trackers.identity import Identity


def test_a_given_id_counts_and_nothing_is_written(tmp_path):
    made = Identity(tmp_path / "it", "abc")
    made.load({"id": "other"})
    assert made.id == "abc"
    assert Identity(tmp_path / "it", 123).id == "123"  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_id_is_kept_in_the_folder(tmp_path):
    first = Identity(tmp_path / "it", None).id
    assert len(first) == 32
    assert Identity(tmp_path / "it", None).id == first
    assert Identity(tmp_path / "other", None).id != first


def test_the_id_of_the_checkpoint_wins_and_is_kept(tmp_path):
    Identity(tmp_path / "it", None).id  # noqa: B018
    resumed = Identity(tmp_path / "it", None)
    resumed.load({"id": "abc", "rows": 3})
    assert resumed.id == "abc"
    assert Identity(tmp_path / "it", None).id == "abc"


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert len(Identity(tmp_path / "it", None).id) == 32
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_means_another_id(tmp_path):
    (tmp_path / "it").mkdir()
    for content in ("", "{", "[1]", '"abc"', json.dumps({"other": 1}), json.dumps({"id": "a' or '1"})):
        (tmp_path / "it" / "identity.json").write_text(content)
        assert len(Identity(tmp_path / "it", None).id) == 32


def test_an_id_that_is_more_than_a_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="id=\"a' or '1\" must have letters"):
        Identity(tmp_path / "it", "a' or '1")
    made = Identity(tmp_path / "it", None)
    made.load({"id": "a' or '1"})
    assert len(made.id) == 32


def test_a_folder_that_cannot_be_written_is_named_once(tmp_path, caplog):
    (tmp_path / "it").write_text("a file")
    made = Identity(tmp_path / "it", None)
    assert made.id == made.id
    assert caplog.text.count("Could not write") == 1


def test_the_folder_of_a_tracker_is_not_taken_for_a_run(tmp_path):
    """In the library, the directory of a run has no run.json itself."""
    Identity(tmp_path / "runs" / "a" / "mlflow", None).id  # noqa: B018
    assert below.find(tmp_path).runs == ()
    assert newest(tmp_path) is None
