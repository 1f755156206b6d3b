"""Makes run directories with known figures, as a sweep leaves them, without training; kills come where a test wants."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tests.support.values import at, commit

from cairn.types import Saved

BATCH_S, STALL_S, SLOWER_S, WRITE_S = 0.1, 0.05, 0.15, 1.0
SAVE_S = STALL_S + SLOWER_S
SAVE_BYTES = 2_000_000
"""Size of a save in the CSV file; the files themselves are small."""


def elapsed_s(batches: int, interval: int) -> float:
    """Return the training time after this many batches, before the save that is due there."""
    return batches * BATCH_S + max(0, (batches - 1) // interval) * SAVE_S


def run_directory(
    sweep: Path, interval: int, batches: int = 1000, ends: Sequence[dict[str, Any]] = (), **record: Any
) -> Path:
    """Make a finished run that saved every `interval` batches (a batch is a step) and keeps the newest two."""
    run = sweep / f"checkpoint.save_interval={interval},checkpoint=interval"
    _settle(run, interval, record)
    saves = list(range(interval, batches + 1, interval))
    _write_rows(run / "csv" / "checkpoints.csv", [row(number, step, interval) for number, step in enumerate(saves)])
    _write_rows(run / "csv" / "metrics.csv", [{"step": 1, "val/loss": 0.5}, {"step": 2, "val/loss": 0.25}])
    for number, step in list(enumerate(saves))[-2:]:
        kept(run, number, step, interval)
    progress = {"total_batches": batches, "step": batches, "elapsed_s": elapsed_s(batches, interval)}
    (run / "progress.json").write_text(json.dumps({"epoch": 0, "batch": batches, "at": 0.0, **progress}))
    write_starts(run, ends)
    return run


def row(number: int, step: int, interval: int) -> dict[str, float]:
    """Return the row of checkpoints.csv for a save, written at its commit."""
    cost_s = (number + 1) * SAVE_S
    whole_s = elapsed_s(step, interval) + STALL_S + WRITE_S
    costs = {"stall_s": STALL_S, "wait_s": 0.0, "write_s": WRITE_S, "bytes": SAVE_BYTES}
    return {"step": step, **costs, "overhead": cost_s / (whole_s - cost_s), "skipped": 0}


def kept(run: Path, number: int, step: int, interval: int) -> Saved:
    """Make the checkpoint of a save, with its manifest."""
    begun_s, cost_s = elapsed_s(step, interval), number * SAVE_S  # its own is not known yet
    facts = {"stall_s": STALL_S, "overhead": cost_s / (begun_s - cost_s), "elapsed_s": begun_s}
    position = at(step, total=step, step=step)
    return commit(run / "checkpoints", number, None, position=position, metrics={"val/loss": 0.25}, **facts)


def end(reached: int, resumed: int, interval: int, status: str = "running", why: str = "") -> dict[str, Any]:
    """Return a line of starts.jsonl: an attempt ended after `reached` batches and the next resumed at `resumed`."""
    before = {
        "status": status,
        "why": why,
        "total_batches": reached,
        "elapsed_s": elapsed_s(reached, interval),
        "at": 0.0,
    }
    begins = {"name": "x.ckpt", "total_batches": resumed, "elapsed_s": elapsed_s(resumed, interval)}
    return {"at": "2026-01-01T00:00:00+00:00", "host": "node", "job": "7", "begins": begins, "before": before}


def write_starts(run: Path, ends: Sequence[dict[str, Any]]) -> None:
    """Write the journal of attempts: the first attempt, and one after each end."""
    begins = {"name": "", "total_batches": 0, "elapsed_s": 0.0}
    first = {"at": "2026-01-01T00:00:00+00:00", "host": "node", "job": "", "begins": begins, "before": None}
    (run / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [first, *ends]))


def _settle(run: Path, interval: int, record: dict[str, Any]) -> None:
    run.mkdir(parents=True)
    overrides = ["checkpoint=interval", f"checkpoint.save_interval={interval}"]
    plain = {"id": "x", "task_name": "t", "overrides": overrides, "status": "finished", "why": ""}
    (run / "run.json").write_text(json.dumps({**plain, **record}))
    group = {"save_interval": interval, "dirpath": str(run / "checkpoints"), "monitor": None, "mode": "min"}
    (run / "config.yaml").write_text(yaml.safe_dump({"checkpoint": group, "paths": {"output_dir": str(run)}}))


def _write_rows(path: Path, rows: Sequence[dict[str, float]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["step"])
        writer.writeheader()
        writer.writerows(rows)
