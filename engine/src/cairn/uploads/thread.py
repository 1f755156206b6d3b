"""A thread that sleeps until it is woken: what uploads run on, so that training and its saves wait for no server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_SHOW_AFTER_S, _SHOW_EVERY_S = 1.0, 5.0


class WakingThread:
    """Works whenever another thread gives it a reason. A daemon: a call that hangs does not keep the process alive.

    Args:
        name: Name of the thread.
        work: Called in the thread, once, with this object; takes reasons by `take` until it returns.
    """

    def __init__(self, name: str, work: Callable[[WakingThread], None]) -> None:
        self._due: set[str] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the end has not been reached."""
        return self._thread.is_alive()

    def wake(self, why: str) -> None:
        """Give a reason to work. Returns at once.

        Args:
            why: The reason; one that was given twice before it was taken counts once.
        """
        with self._changed:
            self._due.add(why)
            self._changed.notify_all()

    def take(self, limit_s: float | None = None) -> set[str]:
        """Wait for reasons, and take all of them.

        Args:
            limit_s: Maximum time to wait, in seconds; None: no limit.

        Returns:
            The reasons; empty if the time is over.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._due, limit_s)
            due, self._due = self._due, set()
        return due

    def join(self, limit_s: float) -> None:
        """Wait for the end of the thread.

        Args:
            limit_s: Maximum time, in seconds.
        """
        self._thread.join(limit_s)

    def join_with_progress(self, limit_s: float, whom: str, left: Callable[[], str]) -> None:
        """Wait for the end of the thread, and log every few seconds what is left.

        Args:
            limit_s: Maximum time, in seconds.
            whom: What is waited for, such as `W&B`.
            left: Returns what is left, for the log.
        """
        until = time.monotonic() + limit_s
        self.join(min(_SHOW_AFTER_S, limit_s))
        while self.is_alive and (left_s := until - time.monotonic()) > 0:
            log.info("Waiting for %s, at most %.0f s more: %s.", whom, left_s, left())
            self.join(min(_SHOW_EVERY_S, left_s))
