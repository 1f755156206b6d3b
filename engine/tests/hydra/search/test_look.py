"""What has become of a trial, from its run directory; and what a stopped one keeps."""

import json

import pytest
from tests.support.values import at, commit

from cairn.hydra.search import look, losers
from cairn.run.directory import RunDirectory
from cairn.search.driver import Result
from cairn.store.catalog import Catalog
from cairn.trackers.deleted import Deleted

CONFIG = """\
checkpoint: {{dirpath: {0}/checkpoints, monitor: {1}, mode: min}}
paths: {{output_dir: {0}}}
trainer: {{max_epochs: {2}, max_steps: {3}, accumulate_grad_batches: {4}}}
"""


def run(path, status, why="", result=0.5, monitor="val/loss", epochs=9, steps=-1, window=1):
    made = RunDirectory(path)
    made.start("task", (), CONFIG.format(path, monitor, epochs, steps, window), "toy")
    made.end(status, why, result)
    for number, score in enumerate([0.4, 0.2, 0.3]):
        commit(path / "checkpoints", number, score, position=at(5, epoch=number, total=5 * (number + 1)), run="toy")
    facts = {"epoch": 2, "batch": 3, "total_batches": 13, "step": 13, "elapsed_s": 1.0, "at": 0.0}
    (path / "progress.json").write_text(json.dumps({**facts, "batches_per_epoch": 5}))
    return path


@pytest.mark.parametrize(
    ("status", "why", "stop", "is_over"),
    [
        ("paused", "3ep", "3ep", False),
        ("finished", "", "3ep", True),
        ("finished", "", "end", True),
        ("stopped", "max_time", "end", True),
    ],
)
def test_a_trial_that_has_come_there(status, why, stop, is_over, tmp_path):
    """Its newest checkpoint counts where the file of the progress is a second old."""
    found = look.reached(run(tmp_path, status, why), stop)
    assert found == Result("", 0.5, 3, 15, is_over, 45)


@pytest.mark.parametrize(
    ("status", "why", "stop"),
    [("paused", "1ep", "3ep"), ("paused", "3ep", "end"), ("running", "", "3ep"), ("stopped", "SIGTERM", "3ep")],
)
def test_a_trial_that_has_not(status, why, stop, tmp_path):
    assert look.reached(run(tmp_path, status, why), stop) is None
    assert look.reached(tmp_path / "missing", stop) is None


def test_why_a_trial_has_failed(tmp_path):
    assert look.why_failed(run(tmp_path / "a", "failed", "it broke\nhere"), "RuntimeError") == "it broke"
    assert look.why_failed(run(tmp_path / "b", "stopped", "SIGTERM"), "") == "it is stopped SIGTERM"
    assert look.why_failed(tmp_path / "c", "no such key") == "no such key"
    assert look.why_failed(tmp_path / "c", "") == "it has not started"


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, 45), ({"epochs": -1, "steps": 30, "window": 2}, 60), ({"steps": 20}, 20), ({"epochs": "null"}, None)],
)
def test_the_length_of_a_run(more, expected, tmp_path):
    assert look.full_batches(RunDirectory(run(tmp_path, "finished", **more)), 5) == expected


@pytest.mark.parametrize(
    ("kept", "monitor", "expected"),
    [("all", "val/loss", [0, 1, 2]), ("best", "val/loss", [1]), ("best", "null", [2]), ("nothing", "val/loss", [])],
)
def test_what_a_stopped_trial_keeps(kept, monitor, expected, tmp_path):
    run(tmp_path, "paused", "3ep", monitor=monitor)
    (tmp_path / "mlflow").mkdir()
    digests = {item.number: item.digest for item in Catalog(tmp_path / "checkpoints").committed()}
    for _ in range(2):
        losers.clear(tmp_path, "3ep", kept)
        assert [item.number for item in Catalog(tmp_path / "checkpoints").committed()] == expected
    gone = {digest for number, digest in digests.items() if number not in expected}
    assert Deleted(tmp_path / "mlflow").digests() == gone, "the next start of the trial deletes them there, too"
    catalog = Catalog(tmp_path / "checkpoints")
    if kept == "best":
        assert catalog.linked("last.ckpt") == catalog.committed()[0].name
    if kept == "nothing":
        assert not (tmp_path / "checkpoints" / "last.ckpt").is_symlink()


@pytest.mark.parametrize(
    ("kept", "group", "is_named"),
    [
        ("best", {"mirror": "s3://b/x"}, True),
        ("nothing", {"mirror": None}, False),
        ("all", {"mirror": "s3://b/x"}, False),
    ],
)
def test_copies_in_a_mirror_that_stay_are_named(kept, group, is_named, caplog):
    losers.warn_of_mirror(kept, group)
    assert [f"losers={kept}" in line and "s3://b/x" in line for line in caplog.messages] == [True] * is_named


@pytest.mark.parametrize(
    ("status", "why"), [("finished", ""), ("running", ""), ("paused", "6ep"), ("stopped", "SIGINT")]
)
def test_a_stopped_trial_that_was_resumed_by_hand_keeps_everything(status, why, tmp_path):
    run(tmp_path, status, why)
    losers.clear(tmp_path, "3ep", "nothing")
    assert [item.number for item in Catalog(tmp_path / "checkpoints").committed()] == [0, 1, 2]
