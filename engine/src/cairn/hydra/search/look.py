"""What has become of a trial: read from its run directory, whatever its launcher has returned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cairn.account import progress
from cairn.errors import CairnError
from cairn.run.directory import RunDirectory, RunRecord
from cairn.search.driver import Result
from cairn.search.rungs import END
from cairn.store.catalog import Catalog

_LIMIT = "max_time"
"""Training time is used up: such a run does not train on."""


def record_of(path: Path) -> RunRecord | None:
    """Return the record of a run; None if it is missing or damaged. A run with a damaged one refuses to start."""
    try:
        return RunDirectory(path).record()
    except CairnError:
        return None


def reached(path: Path, stop: str) -> Result | None:
    """Return what a trial was where it stops; None if it has not come there.

    Args:
        path: Its run directory.
        stop: Where it stops: a `pause_at`, or `end`.
    """
    record = record_of(path)
    if record is None:
        return None
    is_over = record.status == "finished" or (record.status == "stopped" and record.why == _LIMIT)
    if not is_over and not (record.status == "paused" and record.why == stop != END):
        return None
    epoch, total, per_epoch = _progress(RunDirectory(path))
    full = full_batches(RunDirectory(path), per_epoch)
    return Result("", record.result, epoch, total, is_over, full)


def why_failed(path: Path, error: str) -> str:
    """Return in one line why a trial has not come where it should stop.

    Args:
        path: Its run directory.
        error: What its launcher says; may be empty.
    """
    record = record_of(path)
    if record is not None and record.status in ("failed", "hung"):
        return record.why.partition("\n")[0] or record.status
    if error:
        return error
    return f"it is {record.status} {record.why}".strip() if record else "it has not started"


def _progress(run: RunDirectory) -> tuple[int, int, int | None]:
    """Return complete epochs, batches of the run, and batches of an epoch if they are known."""
    known = progress.read(run.progress_file)
    try:
        saved = Catalog(run.checkpoints()).newest()
    except CairnError:
        saved = None
    # The file of the progress may be a second old if its process was killed.
    places = [(item.total_batches, item.epoch, item.batch) for item in (known, saved and saved.position) if item]
    total, epoch, batch = max(places, default=(0, 0, 0))
    per_epoch = known.batches_per_epoch if known else None
    return epoch + (per_epoch is not None and batch >= per_epoch > 0), total, per_epoch


def full_batches(run: RunDirectory, per_epoch: int | None) -> int | None:
    """Return how many batches a run to its end takes; None if that is not known.

    Args:
        run: The run.
        per_epoch: Batches of an epoch; None: unknown.
    """
    try:
        trainer: Any = run.config("trainer").get("trainer")
    except CairnError:
        return None
    if not isinstance(trainer, Mapping):
        return None
    epochs, steps, window = map(_count, map(trainer.get, ("max_epochs", "max_steps", "accumulate_grad_batches")))
    found = [epochs * per_epoch] if epochs and per_epoch else []
    if steps:
        found.append(steps * (window or 1))
    return min(found, default=None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
