"""Reads a state from a file of our own format, as `encode` wrote it: the counterpart of that module.

With many tensors, `torch.load(weights_only=True)` takes much longer than reading their bytes: it interprets the pickle
opcode by opcode, in Python. What `Encoder` writes has few forms, each of which is recognized here as a whole:

    key       X <length> "layers.0.weight"                earlier versions: r <number>, and j <number> from then on
    tensor    c torch._utils _rebuild_tensor_v2 ( ... )   one regular expression; equal shapes are parsed once

Nothing is looked up by a name from the file, and nothing is called that the file could choose: each form maps to one
constructor of a plain value or a tensor. Anything else, also from other programs, makes `read` return None, and
`torch.load` decides.
"""

from __future__ import annotations

import gc
import mmap
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cairn import opening
from cairn.errors import CorruptCheckpointError
from cairn.store import file_format
from cairn.writing.tensor_form import NEWER_TENSOR, TENSOR, Spec, spec_of

_ORDERED, _COUNTED = b"ccollections\nOrderedDict\n)R", b"ccollections\nCounter\n)R"
_CALL = re.compile(rb"c(_codecs\nencode|builtins\nset|builtins\ncomplex|torch\nSize|torch\ndevice)\n\(")
_DTYPE = re.compile(rb"ctorch\n(\w+)\n")
_METADATA = "_metadata"
_DEVICE = re.compile(r"[a-z]+(:[0-9]+)?")
_U32, _I32, _F64 = struct.Struct("<I"), struct.Struct("<i"), struct.Struct(">d")


class _NotOurs(Exception):
    """The file is not what `Encoder` writes."""


_REFUSED = (
    *(_NotOurs, CorruptCheckpointError, ValueError, TypeError, LookupError, OverflowError),
    *(struct.error, RecursionError, RuntimeError),
)
"""What a pickle of another form raises."""


def read(path: Path) -> Any:
    """Read a state; its tensors are on the CPU, and mapped into memory as those of `torch.load(mmap=True)`.

    Args:
        path: The file. Its checksums are compared elsewhere.

    Returns:
        The state; None if the file does not have exactly the form in which `Encoder` and `Layout` write one.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with _no_collection():
            return _read(path)
    except _REFUSED:
        return None


def rebuild(pickle: bytes, storage_of: Callable[[int], torch.UntypedStorage]) -> Any:
    """Rebuild a state from its pickle and its storages.

    Args:
        pickle: What `Encoder` has written.
        storage_of: Returns the storage of a number; called once for each that a tensor needs.

    Returns:
        The state; None if the pickle does not have exactly the form in which `Encoder` writes one.
    """
    try:
        with _no_collection():
            return _Reader(pickle, storage_of).state()
    except _REFUSED:
        return None


@contextmanager
def _no_collection() -> Iterator[None]:
    """Do not look for garbage: with many new tensors, all of them would be looked at again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(path: Path) -> Any:
    with opening.for_reading(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as view:
            storages, (first, size) = file_format.located(view)
            pickle = bytes(view[first : first + size])
        num_bytes = len(mapped)
    memory: Any = torch.UntypedStorage.from_file(str(path), False, num_bytes)

    def mapped_storage(number: int) -> torch.UntypedStorage:
        start, length = storages[number]
        part: torch.UntypedStorage = memory[start : start + length]
        return part

    return _Reader(pickle, mapped_storage).state()


class _Reader:
    """Reads one pickle. Each method takes the position of a form and returns its value with the position after it."""

    def __init__(self, pickle: bytes, storage_of: Callable[[int], torch.UntypedStorage]) -> None:
        self._pickle, self._storage_of = pickle, storage_of
        self._texts: dict[str, str] = {}
        """Each text once, however often it is read."""
        self._numbered: list[str] = []
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._specs: dict[tuple[bytes, bytes], Spec] = {}

    def state(self) -> Any:
        if not self._pickle.startswith(b"\x80\x02"):
            raise _NotOurs
        value, at = self._value(2)
        if self._pickle[at:] != b".":
            raise _NotOurs
        return value

    def _value(self, at: int) -> tuple[Any, int]:
        read = _FORMS.get(self._pickle[at])
        if read is None:
            raise _NotOurs
        return read(self, at)

    def _text(self, at: int) -> tuple[str, int]:
        end = at + 5 + _U32.unpack_from(self._pickle, at + 1)[0]
        text = self._pickle[at + 5 : end].decode("utf-8", "surrogatepass")
        text = self._texts.setdefault(text, text)
        if self._pickle[end] != _PUT:
            return text, end
        if _U32.unpack_from(self._pickle, end + 1)[0] != len(self._numbered):
            raise _NotOurs
        self._numbered.append(text)
        return text, end + 5

    def _numbered_text(self, at: int) -> tuple[str, int]:
        return self._numbered[_U32.unpack_from(self._pickle, at + 1)[0]], at + 5

    def _long(self, at: int) -> tuple[int, int]:
        end = at + 2 + self._pickle[at + 1]
        data = self._pickle[at + 2 : end]
        if len(data) != end - at - 2:
            raise _NotOurs
        return int.from_bytes(data, "little", signed=True), end

    def _list(self, at: int) -> tuple[list[Any], int]:
        if self._pickle[at + 1 : at + 2] != b"(":
            raise _NotOurs
        return self._values(at + 2, b"e")

    def _tuple(self, at: int) -> tuple[tuple[Any, ...], int]:
        values, at = self._values(at + 1, b"t")
        return tuple(values), at

    def _values(self, at: int, end: bytes) -> tuple[list[Any], int]:
        values: list[Any] = []
        while self._pickle[at] != end[0]:
            value, at = self._value(at)
            values.append(value)
        return values, at + 1

    def _dict(self, at: int) -> tuple[dict[Any, Any], int]:
        return self._items(at + 1, {})

    def _items(self, at: int, found: Any) -> tuple[Any, int]:
        pickle, forms = self._pickle, _FORMS
        if pickle[at : at + 1] != b"(":
            raise _NotOurs
        at += 1
        while (opcode := pickle[at]) != _SETITEMS:
            key, at = forms.get(opcode, _refuse)(self, at)
            item, at = forms.get(pickle[at], _refuse)(self, at)
            found[key] = item
        return found, at + 1

    def _global(self, at: int) -> tuple[Any, int]:
        match = TENSOR.match(self._pickle, at) or NEWER_TENSOR.match(self._pickle, at)
        if match is not None:
            return self._tensor(match), match.end()
        if self._pickle.startswith(_ORDERED, at):
            return self._ordered(at)
        if self._pickle.startswith(_COUNTED, at):
            return self._items(at + len(_COUNTED), Counter())
        if (match := _CALL.match(self._pickle, at)) is not None:
            arguments, at = self._values(match.end(), b"t")
            if self._pickle[at : at + 1] != b"R":
                raise _NotOurs
            return _called(match[1], arguments), at + 1
        if (match := _DTYPE.match(self._pickle, at)) is not None:
            dtype = getattr(torch, match[1].decode(), None)
            if isinstance(dtype, torch.dtype):
                return dtype, match.end()
        raise _NotOurs

    def _ordered(self, at: int) -> tuple[Any, int]:
        found, at = self._items(at + len(_ORDERED), OrderedDict())
        # torch adds an attribute to the state of a module, which is written after the items.
        if self._is_metadata(at):
            attributes, at = self._dict(at)
            if self._pickle[at : at + 1] != b"b" or list(attributes) != [_METADATA]:
                raise _NotOurs  # another dict with this key comes after the ordered one
            found._metadata = attributes[_METADATA]
            at += 1
        return found, at

    def _is_metadata(self, at: int) -> bool:
        if self._pickle[at : at + 3] == b"}(j":
            return self._numbered[_U32.unpack_from(self._pickle, at + 3)[0]] == _METADATA
        return self._pickle.startswith(b"}(X\x09\0\0\0_metadata", at)

    def _tensor(self, match: re.Match[bytes]) -> Tensor:
        number, key = match["number"], (match["kind"], match["rest"])
        spec = self._specs.get(key)
        if spec is None:
            spec = self._specs[key] = spec_of(match)
        dtype, num_bytes, offset, shape, strides = spec
        if match["length"][0] != len(number):
            raise _NotOurs
        place = int(number)
        storage = self._storages.get(place)
        if storage is None:
            storage = self._storages[place] = self._storage_of(place)
        if num_bytes != storage.nbytes():
            raise _NotOurs
        return torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, strides)


def _called(function: bytes, arguments: list[Any]) -> Any:
    """Return what one of the few functions makes of its arguments, which must be those that `Encoder` writes."""
    kinds = tuple(map(type, arguments))
    if function == b"_codecs\nencode" and kinds == (str, str) and arguments[1] == "latin-1":
        return arguments[0].encode("latin-1")
    if function == b"builtins\nset" and kinds == (list,):
        return set(arguments[0])
    if function == b"builtins\ncomplex" and kinds == (float, float):
        return complex(*arguments)
    if function == b"torch\nSize" and kinds == (tuple,) and {int} >= set(map(type, arguments[0])):
        return torch.Size(arguments[0])
    if function == b"torch\ndevice" and kinds == (str,) and _DEVICE.fullmatch(arguments[0]):
        return torch.device(arguments[0])
    raise _NotOurs


def _refuse(reader: _Reader, at: int) -> Any:
    raise _NotOurs


_SETITEMS, _PUT = b"u"[0], b"r"[0]
_FORMS: dict[int, Callable[[_Reader, int], tuple[Any, int]]] = {
    b"X"[0]: _Reader._text,
    b"j"[0]: _Reader._numbered_text,
    b"c"[0]: _Reader._global,
    b"}"[0]: _Reader._dict,
    b"]"[0]: _Reader._list,
    b"("[0]: _Reader._tuple,
    b"K"[0]: lambda reader, at: (reader._pickle[at + 1], at + 2),
    b"J"[0]: lambda reader, at: (_I32.unpack_from(reader._pickle, at + 1)[0], at + 5),
    b"G"[0]: lambda reader, at: (_F64.unpack_from(reader._pickle, at + 1)[0], at + 9),
    b"N"[0]: lambda reader, at: (None, at + 1),
    0x88: lambda reader, at: (True, at + 1),
    0x89: lambda reader, at: (False, at + 1),
    0x8A: _Reader._long,
}
"""The forms, by their first opcode."""
