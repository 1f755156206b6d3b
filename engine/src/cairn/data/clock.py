"""Puts the clock of a process of trials forward: two copies that hold the time of day then differ."""

from __future__ import annotations

import datetime
import functools
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from cairn.data.generators import reachable

_STEP_S = (40 * 24 + 5) * 3600 + 7 * 60
"""To another minute, hour, day of the week and month."""
_forward_s = 0


def put_forward(*owners: Any) -> None:
    """Let the clocks of Python's standard library and of NumPy be later, for good; call it in a forked process only.

    Args:
        owners: Objects and functions. Their modules, and those of what they hold, may have imported a clock by its
            name.
    """
    global _forward_s
    _forward_s += _STEP_S
    found = [item for _, item in reachable({str(number): owner for number, owner in enumerate(owners)})]
    names = {str(getattr(part, "__module__", "")) for item in found for part in (item, type(item))}
    for module in (time, datetime, np, *(sys.modules.get(name) for name in names - {__name__})):
        for name, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
            if id(value) in _LATER:
                setattr(module, name, _LATER[id(value)])


class _Kind(type):
    """Class of a class that takes the place of another one."""

    def __instancecheck__(cls, item: Any) -> bool:
        return isinstance(item, cls.__mro__[1])


class _Date(datetime.date, metaclass=_Kind):
    @classmethod
    def today(cls) -> datetime.date:  # type: ignore[override]
        return _now().date()


class _Datetime(datetime.datetime, metaclass=_Kind):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return _now(tz)

    @classmethod
    def today(cls) -> datetime.datetime:  # type: ignore[override]
        return _now()

    @classmethod
    def utcnow(cls) -> datetime.datetime:  # type: ignore[override]
        return _now(datetime.UTC).replace(tzinfo=None)


_real_64, _PRESENT = np.datetime64, ("now", "today")


class _Kind64(type):
    """Class of a class that is not one of NumPy's, which would know a subclass of `datetime64` by another dtype."""

    def __instancecheck__(cls, item: Any) -> bool:
        return isinstance(item, _real_64)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, _real_64)

    def __eq__(cls, other: object) -> bool:  # NumPy compares `dtype.type` with it
        return other is cls or other is _real_64

    def __hash__(cls) -> int:
        return hash(_real_64)

    def __getattr__(cls, name: str) -> Any:
        return getattr(_real_64, name)


class _Datetime64(metaclass=_Kind64):
    dtype = np.dtype("datetime64")
    """What `np.zeros(3, dtype=np.datetime64)` takes."""

    def __new__(cls, *arguments: Any) -> Any:
        value = _real_64(*arguments)
        if arguments and isinstance(arguments[0], str) and arguments[0] in _PRESENT:
            value = (value + np.timedelta64(_forward_s, "s")).astype(value.dtype)
        return value


def _array(make: Callable[..., Any], item: Any, *arguments: Any, **options: Any) -> Any:
    """Call a function that makes an array, of the words `now` and `today` too."""
    value = make(item, *arguments, **options)
    if value.dtype.kind != "M" or not isinstance(item, str | list | tuple):
        return value
    items = [item] if isinstance(item, str) else item
    forward_s = [_forward_s if isinstance(one, str) and one in _PRESENT else 0 for one in items]
    forward = np.array(forward_s, "timedelta64[s]").reshape(-1, *(1,) * (value.ndim - 1))
    return (value + (forward if value.ndim else forward[0])).astype(value.dtype)


_now_s, _now_ns, _real = time.time, time.time_ns, datetime.datetime


def _now(tz: datetime.tzinfo | None = None) -> datetime.datetime:
    return _real.fromtimestamp(_now_s() + _forward_s, tz)


def _at(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of `time`, with the present time if none is given."""
    return function(_now_s() + _forward_s if not arguments or arguments[0] is None else arguments[0])


def _strftime(text: str, *arguments: Any, strftime: Callable[..., str] = time.strftime) -> str:
    return strftime(text, *(arguments or (time.localtime(),)))


_LATER: dict[int, Any] = {
    id(time.time): lambda: _now_s() + _forward_s,
    id(time.time_ns): lambda: _now_ns() + _forward_s * 10**9,
    id(time.strftime): _strftime,
    id(datetime.date): _Date,
    id(datetime.datetime): _Datetime,
    id(np.datetime64): _Datetime64,
    **{id(make): functools.partial(_array, make) for make in (np.array, np.asarray)},
    **{id(function): functools.partial(_at, function) for function in (time.localtime, time.gmtime, time.ctime)},
}
"""What takes the place of a clock, by its identity."""
