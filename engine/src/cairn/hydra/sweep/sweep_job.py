"""A job of a sweep, with the state of its run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.errors import CairnError
from cairn.run.directory import RunDirectory, RunRecord
from cairn.run.ledger import SubmittedJob
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

    def name_in(self, sweep: Path) -> str:
        """Name of its run in the ledger of the sweep: the path below the directory of the sweep."""
        return os.path.relpath(self.run.path, sweep)

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
            saved = Catalog(self.run.checkpoints()).newest() if self.run.record() else None
        except CairnError:
            return 0.0
        return saved.stall_s + saved.write_s if saved else 0.0


@dataclass(frozen=True)
class Division:
    """The jobs of a sweep when it is started, by what is left to do; a job that runs is in neither list."""

    finished: list[SweepJob]
    missing: list[SweepJob]
    """To be submitted."""

    @classmethod
    def of(
        cls, jobs: Sequence[SweepJob], sweep: Path, entries: Mapping[str, SubmittedJob], alive: Mapping[str, str]
    ) -> Division:
        """Divide the jobs, and log those that are not to be submitted.

        Args:
            jobs: All jobs of the sweep.
            sweep: Directory of the sweep.
            entries: The newest entry of the ledger for each name of a job.
            alive: States of the jobs that their scheduler has not ended, by id.
        """
        divided = cls([], [])
        for job in jobs:
            entry = entries.get(job.name_in(sweep))
            if job.is_finished:
                divided.finished.append(job)
                log.info("  %s: already finished", job)
            elif entry is not None and entry.job in alive:
                log.info("  %s: %s as job %s", job, alive[entry.job].lower(), entry.job)
            else:
                divided.missing.append(job)
        return divided
