"""Decides whether a run goes on after a save that failed."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class SaveFailures:
    """Counts the saves that failed in a row.

    Args:
        most: with so many in a row the run stops; -1: it never does.
    """

    def __init__(self, most: int) -> None:
        self.most, self.in_a_row, self.total = most, 0, 0

    def reset(self) -> str:
        """A save went well: there is no reason to stop."""
        self.in_a_row = 0
        return ""

    def add(self, why: str, final: bool) -> str:
        """A save failed: tell it at once; returns the sentence to stop the run with, or nothing.

        Args:
            final: there is no later save that could make up for it.
        """
        self.in_a_row += 1
        self.total += 1
        if final:
            return f"{why} It was the last save before the end: what came after the one before is to be done again."
        of = f" of {self.most}" if self.most >= 0 else ""
        count = f"Failed save {self.in_a_row}{of} in a row (checkpoint.max_failed_saves={self.most})"
        if 0 <= self.most <= self.in_a_row:
            return f"{why} {count}: the run stops, rather than train what it might lose."
        log.error("%s %s: training goes on, and the next save tries again.", why, count)
        return ""
