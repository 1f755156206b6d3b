"""The short run of a proof that this process executes; an ordinary run has none.

The runs of a proof go through the same code as any other run. The few places that behave differently ask here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRIGGER = "prove"
"""Name of the trigger that saves right before a kill; an undisturbed run has no such reason to save."""


@dataclass(frozen=True)
class ProofRun:
    """One short run: where it goes, how long it is, and whether it is killed."""

    directory: Path
    """Directory of the run. The report is written next to it, because a run directory is copied and resumed."""
    report: str
    """Name of the report."""
    epochs: int | None = 2
    batches: int | None = 4
    val_batches: int | None = None
    kill_after: int | None = None
    """Save after this number of batches, and `kill -9` this process in the next one."""
    notes: list[str] = field(default_factory=list)
    """What was changed for the proof, so that it is not covered."""

    @property
    def report_file(self) -> Path:
        """Path of the report."""
        return self.directory.parent / f"{self.directory.name}-{self.report}.json"


_current: Sequence[ProofRun] = ()


def current() -> ProofRun | None:
    """Return the short run that this process executes; None in an ordinary run."""
    return _current[0] if _current else None


def give(run: ProofRun) -> None:
    """Make this process a run of a proof, until it ends."""
    global _current
    _current = (run,)
