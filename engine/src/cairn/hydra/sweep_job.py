"""A job of a sweep, with the state of its run."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cairn.errors import CairnError
from cairn.runs.directory import RunDirectory, RunRecord
from cairn.store.catalog import Catalog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepJob:
    """A job of a sweep."""

    number: int
    overrides: tuple[str, ...]
    run: RunDirectory
    special: str
    """Overrides that distinguish it from the other jobs, separated by spaces."""

    def __str__(self) -> str:
        return f"#{self.number} {self.special}".strip()

    @property
    def record(self) -> RunRecord | None:
        """Record of its run; None if it is missing or damaged. A run with a damaged record refuses to start."""
        try:
            return self.run.record()
        except CairnError as error:
            log.warning("%s", error)
            return None

    @property
    def is_finished(self) -> bool:
        """True if its run is finished."""
        record = self.record
        return record is not None and record.status == "finished"

    @property
    def save_s(self) -> float:
        """Time from start to commit of its newest save, in seconds; 0 if there is none."""
        try:
            saved = Catalog(self.run.checkpoints()).committed() if self.run.record() else []
        except CairnError:
            return 0.0
        return saved[-1].stall_s + saved[-1].write_s if saved else 0.0
