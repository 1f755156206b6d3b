"""Journal of the hangs of a run, in its directory of checkpoints: where each attempt hung that a watchdog has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cairn import records
from cairn.records import RecordError
from cairn.store import journal
from cairn.types import Position

NAME = "hangs.jsonl"
MOST_IN_PLACE = 3
"""A run that hangs this many times in a row without getting further is not requeued again."""


@dataclass(frozen=True)
class Hang:
    """An attempt of a run that showed no sign of life for too long."""

    what: str
    """What was silent: `training` (batches, validations, the end of the run) or `save` (the write of a checkpoint)."""
    position: Position
    """The last boundary."""
    silent_s: float
    limit_s: float
    at: str
    """UTC, ISO 8601."""
    host: str = ""
    resumed_at: int = 0
    """Batches of the run at which the attempt began."""

    def __str__(self) -> str:
        """A short description, for the record of the run."""
        what = "a save" if self.what == "save" else "training"
        where = f"epoch {self.position.epoch}, batch {self.position.batch}"
        return f"{what} after {where} showed no sign of life for {self.silent_s:.0f} s"


def note(directory: Path, hang: Hang) -> list[Hang]:
    """Append a hang to the journal of a run.

    Args:
        directory: Directory of the run's checkpoints.
        hang: The hang.

    Returns:
        All hangs of the run, this one last; only this one if the journal cannot be read.

    Raises:
        OSError: It cannot be written.
    """
    path = directory / NAME
    try:
        before = read(directory)
    except OSError:
        before = []
    journal.append(path, asdict(hang), sync=True)
    return [*before, hang]


def read(directory: Path) -> list[Hang]:
    """Return the hangs of a run, oldest first; lines that are damaged are skipped.

    Raises:
        OSError: There is no journal, or it cannot be read.
    """
    return [hang for fields in journal.read(directory / NAME) if (hang := _parse(fields)) is not None]


def num_in_place(hangs: Sequence[Hang]) -> int:
    """Return how many times the run has hung in a row without getting further, the last time included."""
    count = 0
    for hang in reversed(hangs):
        if hang.position.total_batches < hangs[-1].position.total_batches:
            break
        count += 1
    return count


def _parse(fields: Any) -> Hang | None:
    try:
        return records.read(Hang, fields)
    except RecordError:
        return None
