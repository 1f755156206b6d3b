"""Makes run directories with known facts for the table of runs, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from tests.support.values import at, commit

from cairn.store import names
from cairn.store.commit import move_links_and_delete

CREATED = "2026-11-01T12:00:00+00:00"


def make(
    path: Path,
    created: str = CREATED,
    config: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    score: float | None = None,
    total_batches: int = 20,
    provenance: Mapping[str, Any] | None = None,
    git: str | None = None,
    **record: Any,
) -> Path:
    """Make a run that was trained for `total_batches` of 40 batches, in 10 s after 5 s of imports.

    Args:
        path: Run directory.
        created: When it began.
        config: Groups that replace those of a small configuration.
        rows: Rows of metrics.csv.
        score: Score of its one checkpoint, which is the best one; None: it has no checkpoint.
        total_batches: Batches.
        provenance: What the checkpoint says about the code.
        git: Commit of the code that its start records; None: not recorded, as in earlier versions.
        **record: Fields of run.json.
    """
    path.mkdir(parents=True)
    plain = {"id": path.name, "task_name": "train", "overrides": [], "status": "finished", "why": ""}
    (path / "run.json").write_text(json.dumps({**plain, "created": created, **record}))
    groups = {
        "paths": {"output_dir": str(path)},
        "tags": ["dev"],
        "seed": 0,
        "model": {"optimizer": {"lr": 1e-3}, "net": {"channels": [16, 32], "bias": False}},
        "trainer": {"max_epochs": 4, "max_steps": -1},
        "checkpoint": {"dirpath": str(path / "checkpoints"), "monitor": "val/loss", "mode": "min"},
    }
    (path / "config.yaml").write_text(yaml.safe_dump({**groups, **(config or {})}, sort_keys=False))
    began = datetime.fromisoformat(created).timestamp()
    reached = {"epoch": 2, "batch": 0, "total_batches": total_batches, "step": total_batches, "elapsed_s": 10.0}
    (path / "progress.json").write_text(json.dumps({**reached, "at": began + 15.0, "batches_per_epoch": 10}))
    begins = {"name": "", "total_batches": 0, "elapsed_s": 0.0}
    start = {"at": created, "host": "node", "job": "", "begins": begins, "before": None}
    start |= {} if git is None else {"git": git}
    (path / "starts.jsonl").write_text(json.dumps(start) + "\n")
    if rows:
        metrics(path / "csv" / "metrics.csv", rows)
    if score is not None:
        saved = commit(
            path / "checkpoints", 0, score, position=at(20), monitor="val/loss", provenance=provenance or {"seed": 0}
        )
        move_links_and_delete(path / "checkpoints", {names.LAST: saved.name, names.BEST: saved.name}, ())
    return path


def metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a file of metrics as a run does: sorted columns, empty cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = sorted({name for row in rows for name in row})
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path
