"""Comparison of attributes in the form in which `attributes.of_trainer` returns them, and words for a difference."""

from __future__ import annotations

import time
from collections.abc import Iterator, Set
from typing import Any

from cairn.lightning.reading import attributes
from cairn.lightning.reading.attributes import Attributes

_NUM_SHOWN = 6
_CLOCK_S = 300.0
"""A number this close to a clock is a time: it is different in every process, and says nothing about a resume."""


def differing(before: Attributes | None, now: Attributes) -> Iterator[str]:
    """Yield the names of attributes that have changed or are new; None: nothing is known of before."""
    if before is not None:
        changed = (name for name in now if not (name in before and same(before[name], now[name])))
        yield from (name for name in changed if attributes.was_there(name, before))


def lost(before: Attributes, now: Attributes) -> list[str]:
    """Return the names of attributes that have another value than at the save; times always have."""
    names = [name for name in before if not same(before[name], now.get(name))]
    return [name for name in names if not _is_time(before[name], now.get(name))]


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, in type, too."""
    return (type(one), repr(one)) == (type(other), repr(other))  # repr: nan is equal to nan


def only(names: Set[str], values: Attributes) -> Attributes:
    """Return the values with these names."""
    return {name: value for name, value in values.items() if name in names}


def is_unset(value: Any) -> bool:
    """Whether a value may still be filled: None, or an empty container."""
    return value is None or value == attributes.EMPTY


def listed(texts: list[str], separator: str = ", ") -> str:
    """Return the first few texts, and how many more there are."""
    more = f" and {len(texts) - _NUM_SHOWN} more" if len(texts) > _NUM_SHOWN else ""
    return separator.join(texts[:_NUM_SHOWN]) + more


def change(name: str, before: Attributes, now: Attributes) -> str:
    """Return how an attribute differs from its value before."""
    if name not in now:
        return f"{name} does not exist"
    if any(_is_digest(values[name]) for values in (before, now)):
        return f"{name} has another value"
    return f"{name} is {now[name]!r} and was {before[name]!r}"


def is_stamp(value: Any) -> bool:
    """Whether a value is the time of day, of a moment ago."""
    return type(value) is float and abs(value - time.time()) < _CLOCK_S


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 16 and set(value) <= set("0123456789abcdef")


def _is_time(before: Any, now: Any) -> bool:
    """Whether both values are times, the second one of this process."""
    if type(before) is not type(now) or type(now) not in (int, float):
        return False
    if type(now) is int:  # of `time_ns`: those of the other clocks may be small, as a counter is
        return abs(now / 1e9 - time.time()) < _CLOCK_S
    return any(abs(now - clock()) < _CLOCK_S for clock in (time.time, time.monotonic, time.perf_counter))
