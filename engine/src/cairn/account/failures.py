"""Decide whether a run continues after a failed save."""

from __future__ import annotations

import logging

from cairn.errors import ConfigError

log = logging.getLogger(__name__)


class SaveFailures:
    """Counts consecutive failed saves.

    Args:
        max_failed_saves: Stop the run after this many consecutive failures; -1: never.

    Raises:
        ConfigError: `max_failed_saves` is neither -1 nor a positive integer.
    """

    def __init__(self, max_failed_saves: int) -> None:
        most = max_failed_saves
        if isinstance(most, bool) or not isinstance(most, int) or (most < 1 and most != -1):
            raise ConfigError(
                f"max_failed_saves={most!r} must be an integer from 1, or -1 to never stop.",
                parameter="max_failed_saves",
            )
        self.max_failed_saves, self.in_a_row, self.total = most, 0, 0

    def reset(self) -> str:
        """Record a successful save; return an empty string: the run continues."""
        self.in_a_row = 0
        return ""

    def add(self, why: str, final: bool) -> str:
        """Record and log a failed save.

        Args:
            why: Description of the failure, as a sentence.
            final: True if no other save will follow.

        Returns:
            The message to stop the run with; empty if the run continues.
        """
        self.in_a_row += 1
        self.total += 1
        if final:
            return f"{why} This was the last save of the run: a resume repeats the work since the previous checkpoint."
        of = f" of {self.max_failed_saves}" if self.max_failed_saves >= 0 else ""
        count = f"Failed save {self.in_a_row}{of} in a row (max_failed_saves={self.max_failed_saves})"
        if 0 <= self.max_failed_saves <= self.in_a_row:
            return f"{why} {count}: the run stops, because its further training could be lost."
        log.error("%s %s: training continues; the next save tries again.", why, count)
        return ""
