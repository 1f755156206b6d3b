"""MLflow, Trackio and TensorBoard through train.py: after a `kill -9` and a resume, each row is there once."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tests.support.command import QUICK, start, train
from tests.support.trackers import MLFLOW, require

from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

SHORT = [
    *QUICK[1:],
    "logger=[csv,mlflow,trackio,tensorboard]",
    "model=mlp",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "data.batch_size=128",
    "checkpoint.save_interval=4",
    "checkpoint.when_busy=wait",
    "+callbacks.kill._target_=tests.support.callbacks.KillAt",
]
COSTS = "checkpoint/"
"""Costs of saves differ between equal runs."""
Rows = list[tuple[int, str, float]]


def table_of(run: Path) -> Rows:
    """Return the rows of metrics.csv, which other tests compare with those of an undisturbed run."""
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        rows = [(int(row.pop("step")), row) for row in csv.DictReader(file)]
    return sorted((step, key, float(value)) for step, row in rows for key, value in row.items() if value)


def mlflow_of(logs: Path, run: str) -> tuple[Rows, dict[str, Any], list[str], dict[str, str]]:
    """Return rows, facts, the names of the artifacts and the tags of a run, read from the SQLite file."""
    with closing(sqlite3.connect(logs / "mlflow" / "mlflow.db")) as database:
        found = database.execute("SELECT run_uuid FROM tags WHERE key = 'cairn.run' AND value = ?", (run,)).fetchall()
        ((uuid,),) = found  # one run in MLflow for all attempts
        rows = database.execute("SELECT step, key, value FROM metrics WHERE run_uuid = ?", (uuid,)).fetchall()
        facts = database.execute("SELECT status, name, artifact_uri FROM runs WHERE run_uuid = ?", (uuid,)).fetchone()
        latest = database.execute("SELECT key, step FROM latest_metrics WHERE run_uuid = ?", (uuid,)).fetchall()
        tags = dict(database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (uuid,)).fetchall())
        params = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (uuid,)).fetchall())
    assert dict(latest) == {key: max(step for step, other, _ in rows if other == key) for _, key, _ in rows}
    place = Path(facts[2].removeprefix("file://"))
    files = sorted(path.name for path in place.rglob("*") if path.is_file() and path.suffix == ".ckpt")
    kept = sorted(row for row in rows if not row[1].startswith(COSTS))
    return kept, {"status": facts[0], "name": facts[1], "params": params}, files, tags


def trackio_of(logs: Path, run: str) -> tuple[Rows, list[str]]:
    """Return rows and the file names of the artifact's versions, read from the SQLite file."""
    with closing(sqlite3.connect(logs / "trackio" / "train.db")) as database:
        found = database.execute("SELECT step, metrics FROM metrics WHERE run_id = ?", (run,)).fetchall()
        versions = database.execute(
            "SELECT v.manifest FROM artifact_versions v JOIN artifacts a ON a.id = v.artifact_id WHERE a.name = ?",
            (f"model-{run}",),
        ).fetchall()
    rows = [(step, key, value) for step, text in found for key, value in json.loads(text).items()]
    return sorted(row for row in rows if not row[1].startswith(COSTS)), [json.loads(v)[0]["path"] for (v,) in versions]


def events_of(run: Path) -> tuple[Rows, Rows]:
    """Return the points that TensorBoard shows, and those that are in its files."""
    folder = run / "tensorboard"
    shown = EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
    points = [(e.step, tag, e.value) for tag in shown.Tags()["scalars"] for e in shown.Scalars(tag)]
    written = []
    for path in folder.glob("*tfevents*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tensor.float_val or value.HasField("simple_value"):
                    number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                    written.append((event.step, value.tag, number))
    rows = [sorted(row for row in found if not row[1].startswith(COSTS)) for found in (points, written)]
    return rows[0], rows[1]


def test_a_killed_run_has_each_row_and_checkpoint_once_in_every_tracker(tmp_path: Path) -> None:
    require(*MLFLOW, "trackio")
    logs, run = tmp_path / "logs", tmp_path / "run"
    command = [*SHORT, f"paths.log_dir={logs}"]
    assert start(run, *command, CAIRN_TEST_KILL="sent:2").wait() == -9, "before its first checkpoint"
    assert start(run, *command, CAIRN_TEST_KILL="sent:15").wait() == -9
    id = json.loads((run / "run.json").read_text())["id"]
    lost = max(step for step, _, _ in mlflow_of(logs, id)[0])
    assert lost > Catalog(run / "checkpoints").committed()[-1].position.step, "rows that are to be taken back"
    train(run, *command)

    expected = table_of(run)
    assert len(expected) > 50
    rows, facts, files, tags = mlflow_of(logs, id)
    assert rows == expected
    kept = [saved.name for saved in Catalog(run / "checkpoints").committed()]
    assert (facts["status"], facts["name"], files) == ("FINISHED", "run", kept)
    assert facts["params"]["data.batch_size"] == "128"
    assert tags["cairn.checkpoint.final"] == tags["cairn.checkpoint.latest"] == kept[-1]
    assert tags["cairn.checkpoint.best"] == (run / "checkpoints" / "best.ckpt").readlink().name

    rows, paths = trackio_of(logs, id)
    assert rows == expected
    assert set(paths) >= set(kept)
    assert len(paths) == len(set(paths))

    shown, written = events_of(run)
    assert shown == written == [(step, key, float(np.float32(value))) for step, key, value in expected]
