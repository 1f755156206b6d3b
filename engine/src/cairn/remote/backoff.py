"""When an operation that has failed is tried again: after 1 s, 2 s, 4 s and so on, up to 5 min."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

FIRST_S, LONGEST_S = 1.0, 300.0
_AT_END_S, _MOST_AT_END = 5.0, 3
"""While a run ends, it waits no longer than this, and gives up after this many failures what does not pass."""


class Backoff:
    """Waits longer after each failure of one kind of operation, and not at all after a success.

    Args:
        now: A clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._delays: dict[str, float] = {}
        self._until: dict[str, float] = {}
        self._num_failed: Counter[str] = Counter()
        self._is_ending = False

    def failed(self, kind: str, may_pass: bool) -> None:
        """Wait before the next operation of this kind.

        Args:
            kind: The kind of operation.
            may_pass: The end of the run waits until it succeeds.
        """
        longest_s = _AT_END_S if self._is_ending else LONGEST_S
        delay = min(self._delays.get(kind, FIRST_S), longest_s)
        self._delays[kind], self._until[kind] = 2 * delay, self._now() + delay
        self._num_failed[kind] += self._is_ending and not may_pass
        if self._is_given_up(kind):
            self._until.pop(kind)

    def succeeded(self, kind: str) -> None:
        """Do not wait any more."""
        self._delays.pop(kind, None)
        self._until.pop(kind, None)

    def is_over(self, kind: str) -> bool:
        """Whether an operation of this kind may be tried."""
        return not self._is_given_up(kind) and self._now() >= self._until.get(kind, 0.0)

    def left_s(self, kinds: Iterable[str]) -> float | None:
        """Time until the first of some kinds may be tried, in seconds; None if none of them waits.

        Args:
            kinds: The kinds of the operations that are left to do.
        """
        left = [self._until[kind] - self._now() for kind in kinds if kind in self._until]
        return max(0.0, min(left)) if left else None

    def end(self) -> None:
        """The run ends: try everything again at once."""
        self._is_ending = True
        self._delays.clear()
        self._until.clear()

    def _is_given_up(self, kind: str) -> bool:
        return self._num_failed[kind] >= _MOST_AT_END
