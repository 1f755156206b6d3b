"""HOW LONG a run may show no sign of life before a watchdog ends it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from cairn.units import parse_duration_s

_START_FACTOR, _START_S = 6.0, 60.0
"""Until the first boundary of a process, the limit is this many times as long, and at least this long: it loads data,
starts workers and compiles."""
_LONGEST_TICK_S = 5.0
_TICKS = 10
"""A silence is looked at about this many times before it is too long."""


@dataclass(frozen=True)
class Patience:
    """How long a run may show no sign of life before it counts as hung.

    Attributes:
        least_s: Shortest limit, in seconds; infinite: never.
        factor: The limit is also at least this many times the longest silence so far; 0: it is always `least_s`.
    """

    least_s: float = 600.0
    factor: float = 10.0

    @property
    def is_endless(self) -> bool:
        """Whether nothing counts as hung."""
        return math.isinf(self.least_s)

    @property
    def tick_s(self) -> float:
        """How often to look, in seconds."""
        return min(_LONGEST_TICK_S, self.least_s / _TICKS)

    def limit_s(self, longest_s: float, starting: bool) -> float:
        """Return the limit.

        Args:
            longest_s: The longest silence that has ended so far, in seconds.
            starting: No boundary has been reached yet.
        """
        limit_s = max(self.least_s, self.factor * longest_s)
        return max(_START_S, _START_FACTOR * limit_s) if starting else limit_s


def parse(value: Patience | float | str | timedelta | None) -> Patience:
    """Read a limit as a user writes it.

    Args:
        value: `auto`; a duration such as "30min", which is the limit whatever happened before; `off` or None: for ever;
            or what was read before.

    Raises:
        ValueError: It is none of them.
    """
    if value is None or value is False or value == "off":  # YAML reads `off` as a boolean
        return Patience(math.inf, 0.0)
    if isinstance(value, Patience):
        return value
    if value == "auto":
        return Patience()
    try:
        if isinstance(value, bool):
            raise ValueError
        seconds = value.total_seconds() if isinstance(value, timedelta) else parse_duration_s(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"watchdog={value!r} must be auto, off, or a duration such as '30min' or '2h'.")
    return Patience(seconds, 0.0)
