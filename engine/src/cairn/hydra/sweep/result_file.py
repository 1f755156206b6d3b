"""Reads the result that submitit has written for a job. It is a pickle, so nothing that it names is looked up.

The folder of a sweep may come from other people, or be writable by them. Of the pickle only plain values are read:
numbers, texts, lists. In place of every class and function there is an object that does nothing.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from cairn import opening

_RETURNED = "_return_value"
_PLAIN = (bool, int, float, str, type(None))


class Unreadable(ValueError):
    """A file that does not hold a result."""


def read(path: Path) -> tuple[str, Any]:
    """Return what submitit wrote at the end of a job.

    Args:
        path: The file.

    Returns:
        `success` and the value that the job returned, or `error` and its traceback. A value that is not made of plain
        values is None.

    Raises:
        OSError: The file cannot be read.
        Unreadable: It does not hold a result.
    """
    data = opening.read_bytes(path)
    try:
        found = _Reader(io.BytesIO(data)).load()
    except Exception as error:  # an incomplete or damaged pickle may raise anything
        raise Unreadable(str(error) or type(error).__name__) from error
    if not isinstance(found, tuple) or len(found) != 2 or found[0] not in ("success", "error"):
        raise Unreadable("it is not the result of a job")
    outcome, value = found
    if outcome == "error":
        return "error", str(value) if isinstance(value, str) else ""
    state = value.state if isinstance(value, _Inert) else None
    returned = state.get(_RETURNED) if isinstance(state, dict) else None
    return "success", returned if _is_plain(returned) else None


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, list | tuple):
        return depth < 8 and all(_is_plain(item, depth + 1) for item in value)
    return isinstance(value, _PLAIN)


class _Inert:
    """Takes the place of an object of any class, and of any function that is called."""

    state: Any = None

    def __new__(cls, *args: Any, **options: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __call__(self, *args: Any, **options: Any) -> _Inert:
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


# The one that is written in Python: the other reserves memory for as many objects as a damaged file claims to have.
class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return type(f"#{name}", (_Inert,), {})

    def get_extension(self, code: int) -> None:
        raise Unreadable("it refers to a registered extension")

    def persistent_load(self, pid: Any) -> Any:
        raise Unreadable("it refers to another file")
