"""Reads records from JSON with the types that their classes declare: the only door from a damaged file to a value.

A field of a dataclass may be `int`, `float`, `str`, `bool`, a `Literal`, another dataclass, `tuple[T, ...]`,
`Mapping[str, T]`, or a union of one of them with None. A file can hold anything in its place: a text, a list, `true`,
a number of 4,000 digits. All of them are a `RecordError`, and nothing else is raised.
"""

from __future__ import annotations

import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar

_LARGEST = 2**63
"""Counts and sizes are smaller than this; a larger number would become infinite where it is divided."""
_DEEPEST = 64
"""Upper limit for the nesting of a record. What the library writes has four levels."""
_T = TypeVar("_T")
_Reader = Callable[[Any, str], Any]


class RecordError(ValueError):
    """A text that is not the record of its class."""


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Args:
        text: The content of a file; bytes are UTF-8.

    Raises:
        RecordError: It is not JSON, names a key twice, or is nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise RecordError("it is nested too deeply") from error
    except ValueError as error:
        raise RecordError(str(error)) from error
    _check_depth(value)
    return value


def read(cls: type[_T], value: Any) -> _T:
    """Return the record of a class.

    Args:
        cls: A dataclass. A field with a default may be missing.
        value: What `parse` has returned.

    Raises:
        RecordError: A field is missing, unknown, or of another type.
    """
    return typing.cast(_T, _dataclass(typing.cast(Any, cls))(value, ""))


def require_finite(record: Any, *names: str) -> None:
    """Check fields that time and cost are computed from.

    Args:
        record: A record.
        *names: Fields with a number or None.

    Raises:
        RecordError: One of them is NaN or infinite.
    """
    for name in names:
        value = getattr(record, name)
        if value is not None and not math.isfinite(value):
            raise _wrong(name, value, "a finite number")


def require_counts(record: Any, *names: str) -> None:
    """Check fields that count something.

    Args:
        record: A record.
        *names: Fields with an integer or None.

    Raises:
        RecordError: One of them is negative.
    """
    for name in names:
        value = getattr(record, name)
        if value is not None and value < 0:
            raise _wrong(name, value, "0 or more")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RecordError("a key appears twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RecordError("it is nested too deeply")


@functools.cache
def _dataclass(cls: type) -> _Reader:
    hints = typing.get_type_hints(cls)
    readers = {item.name: _reader(hints[item.name]) for item in fields(cls) if item.init}
    needed = {
        item.name for item in fields(cls) if item.init and item.default is MISSING and item.default_factory is MISSING
    }

    def read_fields(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "fields")
        if missing := needed - value.keys():
            raise RecordError(f"{_join(where, min(missing))} is missing")
        if unknown := value.keys() - readers.keys():
            raise RecordError(f"{_join(where, min(unknown))!r} is unknown")
        return cls(**{name: readers[name](item, _join(where, name)) for name, item in value.items()})

    return read_fields


def _reader(hint: Any) -> _Reader:
    """Return the function that reads a value of a type."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (rest,) = [item for item in arguments if item is not types.NoneType]
        inner = _reader(rest)
        return lambda value, where: None if value is None else inner(value, where)
    if origin is Literal:
        return functools.partial(_literal, arguments)
    if origin is tuple:
        return functools.partial(_tuple, _reader(arguments[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return functools.partial(_mapping, _reader(arguments[1]))
    if is_dataclass(hint):
        return _dataclass(typing.cast(type, hint))
    raise TypeError(f"no reader for {hint}")  # a mistake in this library


def _int(value: Any, where: str) -> int:
    if type(value) is not int or not -_LARGEST < value < _LARGEST:
        raise _wrong(where, value, "an integer")
    return value


def _float(value: Any, where: str) -> float:
    if type(value) is not float and (type(value) is not int or not -_LARGEST < value < _LARGEST):
        raise _wrong(where, value, "a number")
    return typing.cast(float, value)  # NaN as well: a training may diverge, and its score says so


def _of(kind: type, words: str) -> _Reader:
    def read_plain(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise _wrong(where, value, words)
        return value

    return read_plain


def _literal(allowed: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise _wrong(where, value, f"one of {', '.join(map(str, allowed))}")
    return value


def _tuple(inner: _Reader, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, value, "a list")
    return tuple(inner(item, where) for item in value)


def _mapping(inner: _Reader, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "fields")
    return {name: inner(item, _join(where, name)) for name, item in value.items()}


_PLAIN: Mapping[Any, _Reader] = {
    int: _int,
    float: _float,
    str: _of(str, "a text"),
    bool: _of(bool, "true or false"),
    Any: lambda value, where: value,
}


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, value: Any, expected: str) -> RecordError:
    shown = ascii(value) if len(ascii(value)) <= 40 else f"{ascii(value)[:37]}..."
    return RecordError(f"{where or 'it'} is {shown}, expected {expected}")
