"""Errors are logged once per kind: training continues, and a server that is down would repeat them for hours."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class ErrorsOnce:
    """Logs each kind of error once.

    Args:
        whom: What the errors are about, such as `W&B`: the messages begin with it.

    Attributes:
        kinds: What was logged.
        silent: Log nothing more.
    """

    def __init__(self, whom: str) -> None:
        self.whom = whom
        self.kinds: set[str] = set()
        self.silent = False

    def log(self, kind: str, text: str) -> None:
        """Log an error, unless one of its kind was logged before.

        Args:
            kind: What errors that are the same to a reader have in common.
            text: A sentence without its full stop.
        """
        if kind not in self.kinds and not self.silent:
            self.kinds.add(kind)
            log.error("%s: %s. Training continues; this message is logged once.", self.whom, text)
