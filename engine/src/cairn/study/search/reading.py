"""A search with the conclusions from it: what the words and the pictures of its report are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cairn.account import progress as progress_file
from cairn.run.directory import RunDirectory
from cairn.study.search import curves, importance, names, outcome, record
from cairn.study.search.curves import Curve
from cairn.study.search.importance import Importance
from cairn.study.search.outcome import RungOutcome, Training
from cairn.study.search.record import Search, Trial


@dataclass(frozen=True)
class SearchStudy:
    """A search with the conclusions from it."""

    search: Search
    reached: Mapping[int, int]
    """Batches that trials which are running or have failed have reached, by number."""

    @cached_property
    def ranked(self) -> list[Trial]:
        """All trials, best first."""
        return outcome.ranked(self.search)

    @cached_property
    def best(self) -> Trial | None:
        """The best trial; None if no trial has a score."""
        return outcome.best(self.search)

    @cached_property
    def places(self) -> Mapping[int, tuple[int, int]]:
        """Place of each trial at its last rung, and the number of trials there."""
        return outcome.places(self.search)

    @cached_property
    def short_names(self) -> Mapping[str, str]:
        """Short name of each parameter."""
        return names.short_names(self.search.parameters)

    @cached_property
    def rungs(self) -> list[RungOutcome]:
        """What happened at each rung of each bracket."""
        return outcome.rungs(self.search)

    @cached_property
    def training(self) -> Training:
        """How much was trained."""
        return outcome.training(self.search, self.reached)

    @cached_property
    def importance(self) -> Importance | None:
        """Importance of the parameters; None if nothing can be said."""
        return importance.importance(self.search)

    @property
    def is_running(self) -> bool:
        """Whether the search may go on."""
        return self.search.state != "finished"

    def curve(self, trial: Trial) -> Curve:
        """Return the learning curve of a trial; empty if there is none."""
        folder = self.search.folder(trial)
        return curves.read(folder, self.search.metric) if folder is not None else Curve()


def read(path: Path) -> SearchStudy:
    """Read a search.

    Args:
        path: Directory of the sweep.

    Raises:
        MissingFileError: It has no record of a search.
        ResumeError: The record cannot be read.
    """
    search = record.read(path)
    return SearchStudy(search, dict(_reached(search)))


def _reached(search: Search) -> list[tuple[int, int]]:
    """Return how far trials are that train, or that failed, between two stops."""
    found = []
    for trial in search.trials:
        folder = search.folder(trial)
        if trial.state in ("running", "failed") and folder is not None:
            progress = progress_file.read(RunDirectory(folder).progress_file)
            if progress is not None:
                found.append((trial.number, progress.total_batches))
    return found
