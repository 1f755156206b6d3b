"""Where an iterator, a generator or an open file stands, as a value that can be compared.

To read the position moves nothing, and runs no code of the user.
"""

from __future__ import annotations

import io
import operator
import sys
import warnings
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FrameType,
    GeneratorType,
    MemberDescriptorType,
    WrapperDescriptorType,
)
from typing import Any

from torch.utils.data.dataloader import _BaseDataLoaderIter

from cairn.data.position import CountedBatches
from cairn.lightning.reading.code import is_library

UNKNOWN = object()
"""Position that cannot be read."""
_FRAMES = {GeneratorType: "gi", AsyncGeneratorType: "ag", CoroutineType: "cr"}
_COUNTS = {"count", "repeat"}


def name_of(value: Any) -> str:
    """Return what kind of iterator a value is; '' for anything else."""
    kind = type(value)
    if kind in _FRAMES:
        return "a generator"
    if is_file(value):
        return "an open file"
    if issubclass(kind, _BaseDataLoaderIter | CountedBatches):
        return "an iterator of a data loader"
    return "an iterator" if _is_builtin(kind) else ""


def is_file(value: Any) -> bool:
    """Whether a value is an open file of Python's own."""
    return issubclass(type(value), io.IOBase) and is_library(type(value))


def position(value: Any) -> Any:
    """Return values that say where an iterator stands; None if this is not one, `UNKNOWN` if they cannot be read."""
    kind = type(value)
    if (prefix := _FRAMES.get(kind)) is not None:
        return _of_frame(getattr(value, f"{prefix}_frame"), getattr(value, "gi_yieldfrom", None))
    if is_file(value):
        return _of_file(value)
    if issubclass(kind, CountedBatches):
        return [vars(value)["batches"]]
    if issubclass(kind, _BaseDataLoaderIter):
        return [vars(value).get("_num_yielded")]
    return _of_builtin(value) if _is_builtin(kind) else None


def _is_builtin(kind: type) -> bool:
    """Whether a class is an iterator that is not written in Python."""
    return isinstance(getattr(kind, "__next__", None), WrapperDescriptorType)


def _of_frame(frame: FrameType | None, inner: Any) -> list[Any]:
    return ["ended"] if frame is None else [frame.f_lasti, dict(frame.f_locals), inner]


def _of_file(value: Any) -> Any:
    if value.closed:
        return ["closed"]
    if not value.readable() or value.writable() or value is sys.stdin:  # a log has no position that training reads
        return []
    for part in (value, getattr(value, "buffer", None)):
        try:
            return [part.tell()]  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):  # a text file that is iterated hides its position
            continue
    return UNKNOWN


def _of_builtin(value: Any) -> Any:
    kind = type(value)
    if kind.__module__ == "itertools" and kind.__name__ in _COUNTS:
        return [operator.length_hint(value, -1), repr(value) if kind.__name__ == "count" else ""]
    if hasattr(kind, "__length_hint__"):
        return [operator.length_hint(value, -1)]
    if kind.__module__ not in ("builtins", "itertools"):  # a reader of csv has the number of its line
        members = (item.__get__(value) for item in vars(kind).values() if isinstance(item, MemberDescriptorType))
        return [item for item in members if type(item) is int] or UNKNOWN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # itertools deprecates this
        try:
            return list(kind.__reduce__(value)[1:])  # type: ignore[call-arg]
        except Exception:  # also of the user's own iterators inside of it
            return UNKNOWN
