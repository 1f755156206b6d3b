"""Watchers: objects that learn how far a run is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cairn.types import Moment, Saved

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Learns how far a run is.

    One with an attribute `is_patient` that is true may learn of boundaries late, and not of each of them: of one in a
    tenth of a second, and of the last one before the fit ends. Its attribute `latest`, which `follow` sets, returns a
    boundary that it has not learned of yet, or None; any thread may call it.

    One with an attribute `on_all_ranks` that is true is called on each rank, others on rank 0.
    """

    def at_boundary(self, moment: Moment) -> None:
        """A boundary is reached; must take less than a microsecond."""
        ...

    def fit_ended(self) -> None:
        """No more boundaries will come in this fit."""
        ...


def follow(watchers: Sequence[Any], latest: Callable[[], Moment | None]) -> None:
    """Let patient watchers ask for the latest boundary: the training may hang before they learn of it."""
    for watcher in watchers:
        if getattr(watcher, "is_patient", False):
            watcher.latest = latest


def are_patient(watchers: Sequence[Watcher]) -> bool:
    """Return whether all of them may learn of boundaries late."""
    return all(getattr(watcher, "is_patient", False) for watcher in watchers)


def inform(watchers: Sequence[Watcher], moment: Moment, leads: bool) -> None:
    """Let them learn of a boundary, on a rank that leads or another one."""
    for watcher in watchers:
        if leads or getattr(watcher, "on_all_ranks", False):
            watcher.at_boundary(moment)


def announce_stop(moment: Moment, newest: Saved | None) -> None:
    """Say what a person has to wait for who wants the run to stop."""
    log.info(
        "%s: saving now (about %.1f s). If the process is killed first, the run will resume from %s.",
        moment.stop,
        moment.cost.until_committed_s if moment.cost else 0.0,
        newest.name if newest else "its beginning",
    )
