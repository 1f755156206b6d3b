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
        ConfigError: It is neither.
    """

    def __init__(self, max_failed_saves: int) -> None:
        most = max_failed_saves
        if isinstance(most, bool) or not isinstance(most, int) or (most < 1 and most != -1):
            raise ConfigError(
                f"max_failed_saves={most!r} must be a number from 1, or -1 to never stop.", parameter="max_failed_saves"
            )
        self.max_failed_saves, self.in_a_row, self.total = most, 0, 0

    def reset(self) -> str:
        """Record a successful save; return an empty string, because there is no reason to stop."""
        self.in_a_row = 0
        return ""

    def add(self, why: str, final: bool) -> str:
        """Record and log a failed save.

        Args:
            why: What happened, as a sentence.
            final: True if no later save can make up for it.

        Returns:
            The message to stop the run with; empty if the run continues.
        """
        self.in_a_row += 1
        self.total += 1
        if final:
            return f"{why} This was the last save of the run: the work since the save before it has to be repeated."
        of = f" of {self.max_failed_saves}" if self.max_failed_saves >= 0 else ""
        count = f"Failed save {self.in_a_row}{of} in a row (max_failed_saves={self.max_failed_saves})"
        if 0 <= self.max_failed_saves <= self.in_a_row:
            return f"{why} {count}: the run stops, because it could lose what it trains."
        log.error("%s %s: training continues, and the next save tries again.", why, count)
        return ""
