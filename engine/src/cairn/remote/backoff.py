"""When an operation that has failed is tried again: after 1 s, 2 s, 4 s and so on, up to 5 min."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_S, LONGEST_S = 1.0, 300.0


class Backoff:
    """Waits longer after each failure of one kind of operation, and not at all after a success.

    Args:
        now: A clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._delays: dict[str, float] = {}
        self._until: dict[str, float] = {}
        self.longest_s = LONGEST_S

    def failed(self, kind: str) -> None:
        """Wait before the next operation of this kind."""
        delay = min(self._delays.get(kind, FIRST_S), self.longest_s)
        self._delays[kind] = 2 * delay
        self._until[kind] = self._now() + delay

    def succeeded(self, kind: str) -> None:
        """Do not wait any more."""
        self._delays.pop(kind, None)
        self._until.pop(kind, None)

    def is_over(self, kind: str) -> bool:
        """Whether an operation of this kind may be tried."""
        return self._now() >= self._until.get(kind, 0.0)

    @property
    def left_s(self) -> float | None:
        """Time until the next kind may be tried, in seconds; None if none waits."""
        left = [until - self._now() for until in self._until.values()]
        return max(0.0, min(left)) if left else None

    def retry_now(self, longest_s: float) -> None:
        """Try everything at once, and wait at most this long from now on, in seconds."""
        self.longest_s = longest_s
        self._delays.clear()
        self._until.clear()
