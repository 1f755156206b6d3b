"""Which kept checkpoints are still there: something other than the run may delete files in its directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cairn.types import Saved

log = logging.getLogger(__name__)

_SHORT = 1_000
"""Names in a directory that is listed before every save; a longer one is listed as much less often as it is longer."""


class Presence:
    """Looks for deleted checkpoints, at a cost per save that does not grow with their number.

    A directory of up to 1,000 names is listed before every save. Of a longer one, the time of its last change is
    compared with the one that the run's own last save left. A file that was deleted during a save leaves no trace in
    that time, so that a directory of n thousand names is listed at every n-th save nevertheless.

    Args:
        directory: Where the checkpoints are; it may not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._names_listed = 0
        self._saves_since = 0
        self._changed_ns: int | None = None
        """Time of the directory's last change after the last save of the run; None: it must be listed."""

    def still_there(self, saved: Sequence[Saved]) -> Sequence[Saved]:
        """Return `saved` itself if nothing shows that one is missing; else log which, and return the others."""
        self._saves_since += 1
        is_due = self._saves_since * _SHORT >= self._names_listed
        if not is_due and self._changed_ns is not None and self._changed_ns == self._last_change_ns():
            return saved
        try:
            names = set(os.listdir(self.directory))
        except OSError:  # it is gone, or cannot be read
            names = {item.name for item in saved if (self.directory / item.name).exists()}
        self._names_listed, self._saves_since = len(names), 0
        if missing := [item.name for item in saved if item.name not in names]:
            text = "Something other than this run deleted checkpoints in %s: %s."
            log.warning(text, self.directory, ", ".join(missing))
            return [item for item in saved if item.name in names]
        return saved

    def all_there(self, names: Iterable[str | None]) -> bool:
        """Look for a few files themselves; if one is missing, the next `still_there` lists the directory."""
        if all(os.path.lexists(self.directory / name) for name in names if name is not None):
            return True
        self._changed_ns = None
        return False

    def saved(self) -> None:
        """Call this after each save: the run has changed the directory itself."""
        self._changed_ns = self._last_change_ns()

    def _last_change_ns(self) -> int | None:
        try:
            return os.stat(self.directory).st_mtime_ns
        except OSError:
            return None
