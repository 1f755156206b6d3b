"""The table of runs, as values."""

import subprocess
import sys

import pytest
from tests.support.listed_runs import make
from tests.support.paths import ENGINE

import cairn
from cairn.errors import ConfigError, MissingFileError


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    rows = [{"step": 1, "val/loss": 0.5, "val/acc": 0.75}, {"step": 2, "test/acc": 0.5, "test/loss": 0.125}]
    make(folder / "train" / "runs" / "old", created="2026-11-01T00:00:00+00:00", rows=rows, score=0.25)
    config = {"model": {"optimizer": {"lr": 0.5}}, "tags": "alone"}
    job = folder / "train" / "multiruns" / "t" / "lr=0.5"
    make(job, created="2026-11-03T00:00:00+00:00", config=config, status="failed", why="NaN", total_batches=4)
    make(folder / "gpt" / "runs" / "x", created="2026-11-02T00:00:00+00:00", status="running", task_name="gpt")
    return folder


def names(rows):
    return [row["run"].rpartition("/")[2] for row in rows]


def test_all_runs_are_listed_newest_first_with_plain_values(logs, monkeypatch):
    monkeypatch.chdir(logs.parent)
    rows = cairn.runs()
    assert names(rows) == ["lr=0.5", "x", "old"]
    old = rows[2]
    assert old["run"] == "logs/train/runs/old"
    expected = {
        **{"task": "train", "status": "finished", "progress": 0.5, "best": 0.25, "test": 0.125, "tags": ["dev"]},
        **{"why": None, "created": "2026-11-01T00:00:00+00:00", "epoch": 2, "step": 20, "trained_s": 10.0},
        **{"attempts": 1, "monitor": "val/loss", "test_metric": "test/loss", "id": "old"},
    }
    assert {name: old[name] for name in expected} == expected
    assert 0 < old["goodput"] < 1
    assert old["duration_s"] > 10
    assert all(row.keys() == old.keys() for row in rows)
    assert (rows[0]["status"], rows[0]["why"], rows[0]["progress"], rows[0]["tags"]) == (
        "failed",
        "NaN",
        0.1,
        ["alone"],
    )
    assert (rows[1]["status"], rows[1]["best"], rows[1]["test"], rows[1]["test_metric"]) == ("dead", None, None, None)


def test_columns_may_be_keys_and_metrics_and_patterns(logs):
    (row,) = cairn.runs(logs, columns=["val/acc", "model.optimizer.lr", "overrides"], filters=["id=old"])
    assert row == {"val/acc": 0.75, "model.optimizer.lr": 1e-3, "overrides": []}
    added = cairn.runs(logs, columns=["+model.*", "+test/*"])
    assert {"model.optimizer.lr", "model.net.channels", "model.net.bias", "test/acc", "task"} <= added[0].keys()
    assert added[0]["model.net.channels"] is None
    assert added[2]["model.net.channels"] == [16, 32]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sort": "created"}, ["old", "x", "lr=0.5"]),
        ({"reverse": True}, ["old", "x", "lr=0.5"]),
        ({"limit": 1}, ["lr=0.5"]),
        ({"sort": "model.optimizer.lr", "reverse": True}, ["lr=0.5", "x", "old"]),
        ({"sort": "best"}, ["old", "x", "lr=0.5"]),  # those without a score come last, in the order of their paths
        ({"sort": "best", "reverse": True}, ["old", "x", "lr=0.5"]),
        ({"filters": ["task=train", "status!=failed"]}, ["old"]),
        ({"filters": "val/acc>0.5"}, ["old"]),
        ({"filters": ["seed=7"]}, []),
    ],
)
def test_runs_are_filtered_and_sorted(logs, options, expected):
    assert names(cairn.runs(logs, **options)) == expected


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sort": "model.optimiser.lr"}, r"named model\.optimiser\.lr: did you mean model\.optimizer\.lr\?"),
        ({"filters": ["lr=1"]}, r"named lr: did you mean model\.optimizer\.lr\?"),
        ({"columns": ["+statsu"]}, r"named statsu: did you mean status\?"),
        ({"columns": ["xyzzyx"]}, r"named xyzzyx: columns are run, task"),
        ({"limit": -1}, "limit=-1"),
    ],
)
def test_a_name_that_no_run_has_is_an_error(logs, options, why):
    with pytest.raises(ConfigError, match=why):
        cairn.runs(logs, **options)


def test_a_directory_that_does_not_exist_is_an_error_and_an_empty_one_is_empty(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        cairn.runs(tmp_path / "none")
    assert cairn.runs(tmp_path, filters=["anything=1"]) == []


@pytest.mark.parametrize(
    ("name", "damage", "status", "why"),
    [
        ("run.json", b"", "unreadable", "is not the record of a run"),
        ("run.json", b'{"best": 1}', "unreadable", "is not the record of a run"),
        ("run.json", b"\xff" * 10, "unreadable", "is not the record of a run"),
        ("config.yaml", b"a: [", "finished", "config.yaml cannot be read"),
        ("config.yaml", b"\x00", "finished", "config.yaml cannot be read"),
        ("config.yaml", None, "finished", "config.yaml cannot be read"),
        ("progress.json", b"[]", "finished", None),
        ("starts.jsonl", b"{}\n\xff", "finished", None),
        ("csv/metrics.csv", b"\xff\x00\n1", "finished", None),
        ("checkpoints/epoch_000_batch_000020.json", b"{", "finished", None),
    ],
)
def test_a_damaged_file_costs_its_values_and_no_more(logs, name, damage, status, why):
    path = logs / "train" / "runs" / "old" / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    row = next(row for row in cairn.runs(logs) if row["run"].endswith("old"))
    assert row["status"] == status
    assert (why in row["why"]) if why else row["why"] is None


def test_a_run_that_has_just_begun_is_running(logs):
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat()
    path = make(logs / "new", created=now, status="running")
    (path / "progress.json").unlink()
    assert cairn.runs(path)[0]["status"] == "running"


def test_the_table_needs_no_torch(logs):
    code = f"import sys, cairn; cairn.runs({str(logs)!r}, columns='+model.*'); sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(ENGINE / "src")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
