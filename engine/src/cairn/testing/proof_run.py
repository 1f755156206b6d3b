"""The short run of a proof that this process executes; an ordinary run has none.

The runs of a proof go through the same code as any other run. The few places that behave differently ask here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TRIGGER = "prove"
"""Name of the trigger that saves right before a kill; an undisturbed run has no such reason to save."""
VARIABLE = "CAIRN_PROOF"
"""Environment variable from which the processes that Lightning starts for a run learn what the run is."""


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
        return self.report_of(0)

    def report_of(self, rank: int) -> Path:
        """Path of the report of one rank."""
        suffix = f"-rank{rank}" if rank else ""
        return self.directory.parent / f"{self.directory.name}-{self.report}{suffix}.json"

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "directory": str(self.directory)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ProofRun:
        """Return the run with these fields; see `as_json`."""
        return cls(**{**fields, "directory": Path(fields["directory"])})


_current: Sequence[ProofRun] = ()


def current() -> ProofRun | None:
    """Return the short run that this process executes; None in an ordinary run."""
    if not _current and VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        give(ProofRun.from_json(json.loads(os.environ[VARIABLE])))
    return _current[0] if _current else None


def give(run: ProofRun) -> None:
    """Make this process a run of a proof, until it ends, and the processes that it starts as further ranks."""
    global _current
    _current = (run,)
    os.environ[VARIABLE] = json.dumps(run.as_json())
