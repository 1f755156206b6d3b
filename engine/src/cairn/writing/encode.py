"""WHAT a state looks like in a file: a pickle of plain values, and beside it the storages of its tensors.

The pickle is the one that `torch.save` makes and `torch.load(weights_only=True)` reads (protocol 2), but written here:
one walk checks every value, by name, and a tensor that views a part of a big storage takes only that part along.
"""

from __future__ import annotations

import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cairn.errors import UnsafeStateError

TensorSpec = tuple[torch.dtype, torch.Size, tuple[int, ...], int]
"""Type, shape, strides and offset of a tensor: what can be told of it without its memory."""


@dataclass(frozen=True)
class Encoded:
    """A state, ready to be laid out.

    Attributes:
        pickle: refers to the storages by their numbers.
        storages: live tensors, one for each storage of the file: what their memory holds, from the first to the last
            byte.
        specs: of the storages.
        sizes: of the storages, in bytes.
    """

    pickle: bytes
    storages: list[Tensor]
    specs: list[TensorSpec]
    sizes: tuple[int, ...]


class Encoder:
    """Encodes one state after the other; what is as it was in the one before is not found out again."""

    def __init__(self) -> None:
        self._known = _Storages([], [], [])

    def encode(self, state: Any, name: str = "checkpoint") -> Encoded:
        """Encode a state; its tensors are referred to, not copied.

        Args:
            state: tensors, numbers, strings, None, and lists, tuples and dicts of them. numpy's numbers become
                Python's and parameters become tensors; all tensors are on the CPU when they are loaded again.
            name: what errors call it.

        Raises:
            UnsafeStateError: something in it is of another kind, so that the file could not be loaded with
                `weights_only=True`; the way to it is named.
        """
        try:
            return self._encode(state)
        except _Refused as refused:
            raise UnsafeStateError(refused.sentence(name)) from None

    def _encode(self, state: Any) -> Encoded:
        walk = _Walk()
        walk.add(state)
        specs, memories = _specs(walk.tensors), _memories(walk.tensors)
        if (self._known.specs, self._known.memories) != (specs, memories):
            try:
                self._known = _Storages(walk.tensors, specs, memories)
            except _TwoTypes as error:
                _Walk(refused=error.number).add(state)  # the same walk again: it knows the way to the tensor
                raise
        known = self._known
        return Encoded(walk.opcodes(known.references), known.of(walk.tensors), known.own_specs, known.sizes)


def encode(state: Any, name: str = "checkpoint") -> Encoded:
    """Encode a single state, as an `Encoder` does."""
    return Encoder().encode(state, name)


class _Refused(Exception):
    """A value that cannot be encoded. The way to it is put together while the error goes up."""

    def __init__(self, what: str, instead: str) -> None:
        self.what, self.instead, self.way = what, instead, ""

    def sentence(self, name: str) -> str:
        where = name + self.way
        return f"{where} {self.what}: {self.instead}{_hint(where)}."


class _TwoTypes(Exception):
    """Two tensors read the same memory as different types, which no reader of the format puts together again.

    Attributes:
        number: of the second of them, in the order in which they are seen.
    """

    def __init__(self, number: int) -> None:
        self.number = number


_KINDS = (
    "a checkpoint holds tensors, numbers, strings, lists and dicts only, so that nothing in it can run code. Store "
    "plain values in its place"
)


_ONE_TYPE = "a file holds a piece of memory once, as one type. Store a clone() of one of them"


def _hint(where: str) -> str:
    hparams = "hyper_parameters" in where
    return ": self.save_hyperparameters(ignore=[...]) leaves an argument out" if hparams else ""


_MARK, _TUPLE, _REDUCE, _BUILD = b"(", b"t", b"R", b"b"
_ORDERED = b"ccollections\nOrderedDict\n)R"
_NO_HOOKS = b"\x89" + _ORDERED  # a tensor that wants no gradient and has no hooks
_PERSISTENT = b"Q"


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


@lru_cache(2**16)
def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return pickle.BININT1 + bytes([value])
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    data = pickle.encode_long(value)
    if len(data) > 255:
        raise _Refused("is an integer of more than 255 bytes", _KINDS)
    return pickle.LONG1 + bytes([len(data)]) + data


def _integers(values: Iterable[int]) -> bytes:
    parts = [_integer(value) for value in values]
    return _MARK + b"".join(parts) + _TUPLE


class _Walk:
    """Writes opcodes. Tensors are left open until all are known: which of them share a storage, and what of it."""

    def __init__(self, refused: int | None = None) -> None:
        self.tensors: list[Tensor] = []
        self._refused = refused
        self._parts: list[bytes] = [pickle.PROTO + b"\x02"]
        self._open: list[int] = []
        """The numbers of the parts that refer to the tensors."""
        self._texts: dict[str, bytes] = {}

    def add(self, value: Any) -> None:
        add = _ADD.get(type(value))
        if add is not None:
            add(self, value)
        elif isinstance(value, np.generic) and type(value.item()) in _SCALARS:
            self.add(value.item())
        else:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise _Refused(f"is a {kind}", _KINDS)

    def opcodes(self, references: Iterable[bytes]) -> bytes:
        """All of it, with the opcodes that make each tensor again."""
        for part, reference in zip(self._open, references, strict=True):
            self._parts[part] = reference
        return b"".join([*self._parts, pickle.STOP])

    def _add_text(self, value: str) -> None:
        known = self._texts.get(value)
        if known is None:
            number = struct.pack("<I", len(self._texts))
            self._texts[value] = pickle.LONG_BINGET + number
            known = _text(value) + pickle.LONG_BINPUT + number
        self._parts.append(known)

    def _add_list(self, value: list[Any]) -> None:
        self._parts.append(pickle.EMPTY_LIST + _MARK)
        self._add_all(value)
        self._parts.append(pickle.APPENDS)

    def _add_tuple(self, value: tuple[Any, ...]) -> None:
        self._parts.append(_MARK)
        self._add_all(value)
        self._parts.append(_TUPLE)

    def _add_all(self, values: Iterable[Any]) -> None:
        for number, value in enumerate(values):
            try:
                _ADD.get(type(value), _Walk.add)(self, value)
            except _Refused as refused:
                refused.way = f"[{number}]{refused.way}"
                raise

    def _add_items(self, value: Mapping[Any, Any], empty: bytes = pickle.EMPTY_DICT) -> None:
        self._parts.append(empty + _MARK)
        texts, append = self._texts, self._parts.append
        for key, item in value.items():  # most of all that there is: nothing is looked up twice, or called for nothing
            known = texts.get(key) if type(key) is str else None
            if known is not None:
                append(known)
            else:
                self._add_key(key)
            try:
                _ADD.get(type(item), _Walk.add)(self, item)
            except _Refused as refused:
                refused.way = f"[{key!r}]{refused.way}"
                raise
        append(pickle.SETITEMS)
        if type(value) is not dict and hasattr(value, "_metadata"):  # what torch hangs on a module's state_dict
            self._add_attributes({"_metadata": value._metadata})

    def _add_attributes(self, attributes: dict[str, Any]) -> None:
        self.add(attributes)
        self._parts.append(_BUILD)

    def _add_key(self, key: Any) -> None:
        parts = key if type(key) is tuple else (key,)
        if type(key) not in (str, int) and any(type(part) not in _SCALARS for part in parts):
            raise _Refused(f"has the key {key!r} of type {type(key).__name__}", "use a string or a number")
        self.add(key)

    def _add_tensor(self, tensor: Tensor) -> None:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise _Refused(f"is a tensor of a special kind ({tensor.layout}, {tensor.dtype})", _KINDS)
        if self._refused == len(self.tensors):
            raise _Refused(f"shares memory with a tensor of another type than its own ({tensor.dtype})", _ONE_TYPE)
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        self._open.append(len(self._parts))
        self.tensors.append(tensor)
        self._parts.append(b"")


_ADD: dict[type, Callable[[_Walk, Any], None]] = {
    Tensor: _Walk._add_tensor,
    nn.Parameter: _Walk._add_tensor,
    str: _Walk._add_text,
    bool: lambda walk, value: walk._parts.append(pickle.NEWTRUE if value else pickle.NEWFALSE),
    int: lambda walk, value: walk._parts.append(_integer(value)),
    float: lambda walk, value: walk._parts.append(pickle.BINFLOAT + struct.pack(">d", value)),
    type(None): lambda walk, value: walk._parts.append(pickle.NONE),
    list: _Walk._add_list,
    tuple: _Walk._add_tuple,
    dict: _Walk._add_items,
    OrderedDict: lambda walk, value: walk._add_items(value, _ORDERED),
    Counter: lambda walk, value: walk._add_items(value, b"ccollections\nCounter\n)R"),
}
"""By type, how a value is added. Not in the walk itself: it would hold itself, and so the tensors, for a while."""
_SCALARS = (bool, int, float, str, type(None))  # not bytes: weights_only=True does not read them


def _specs(tensors: Iterable[Tensor]) -> list[TensorSpec]:
    return [(tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset())) for tensor in tensors]


def _memories(tensors: Iterable[Tensor]) -> list[int]:
    """For each tensor the number of the storage that it is in: they are numbered as they are seen."""
    numbers: dict[int, int] = {}
    found: list[int] = []
    for tensor in tensors:
        # Nothing in it: it has no address, and shares nothing.
        address = tensor.untyped_storage().data_ptr() or -len(found) - 1
        found.append(numbers.setdefault(address, len(numbers)))
    return found


@dataclass(frozen=True)
class _Kind:
    """What tensors of the same spec have in common."""

    first: int
    """Byte of the storage that they begin with."""
    end: int
    """Byte behind the last one that they span."""
    before: bytes
    after: bytes
    """The opcodes around the number of a storage that is just what they span."""


@dataclass
class _Whole:
    """What goes into the file of a storage."""

    number: int
    """Of a tensor in it: the first that spans as much as any before."""
    first: int
    end: int


class _Storages:
    """What of which storage goes into the file: for each, the part that its tensors span, once.

    Args:
        tensors: of a state; they are not held.
        specs: theirs.
        memories: and the numbers of the storages that they are in.

    Attributes:
        references: the opcodes that make each tensor again.
        own_specs: of what is copied for each storage.
        sizes: of that, in bytes.

    Raises:
        _TwoTypes: two tensors read one storage as different types.
    """

    def __init__(self, tensors: list[Tensor], specs: list[TensorSpec], memories: list[int]) -> None:
        self.specs, self.memories = specs, memories
        kind_of = cache(_kind)  # few of them are different
        kinds = [kind_of(spec) for spec in specs]
        wholes = _wholes(specs, kinds, memories)
        self.references = [
            _reference_to(spec, kind, memory, wholes[memory])
            for spec, kind, memory in zip(specs, kinds, memories, strict=True)
        ]
        self._chosen = [whole.number for whole in wholes]
        self._pieces = [
            (memory, whole.first, whole.end)
            for memory, whole in enumerate(wholes)
            if not _is_just(tensors[whole.number], whole.end - whole.first)
        ]
        self.own_specs = _specs(self.of(tensors))
        self.sizes = tuple(whole.end - whole.first for whole in wholes)

    def of(self, tensors: list[Tensor]) -> list[Tensor]:
        """What to copy, for each storage: one of its tensors if that is all, or else plain bytes."""
        found = [tensors[number] for number in self._chosen]
        for memory, first, end in self._pieces:
            found[memory] = _piece(found[memory], first, end)
        return found


def _wholes(specs: list[TensorSpec], kinds: list[_Kind], memories: list[int]) -> list[_Whole]:
    wholes: list[_Whole] = []
    for number, (kind, memory) in enumerate(zip(kinds, memories, strict=True)):
        if memory == len(wholes):
            wholes.append(_Whole(number, kind.first, kind.end))
            continue
        whole = wholes[memory]
        if specs[whole.number][0] != specs[number][0]:
            raise _TwoTypes(number)
        if kind.first < whole.first or kind.end > whole.end:
            wholes[memory] = _Whole(number, min(kind.first, whole.first), max(kind.end, whole.end))
    return wholes


def _kind(spec: TensorSpec) -> _Kind:
    dtype, shape, strides, offset = spec
    length = 0 if 0 in shape else 1 + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    first = offset * dtype.itemsize
    num_bytes = length * dtype.itemsize
    return _Kind(first, first + num_bytes, *_reference(dtype, shape, strides, 0, num_bytes))


def _reference_to(spec: TensorSpec, kind: _Kind, memory: int, whole: _Whole) -> bytes:
    before, after = kind.before, kind.after
    if (kind.first, kind.end) != (whole.first, whole.end):  # others have more of this storage
        dtype, shape, strides, _ = spec
        before, after = _reference(dtype, shape, strides, kind.first - whole.first, whole.end - whole.first)
    return before + _name(memory) + after


def _is_just(tensor: Tensor, num_bytes: int) -> bool:
    """Are these its own bytes, one after the other?"""
    return tensor.nbytes == num_bytes and tensor.is_contiguous()


def _piece(tensor: Tensor, first: int, end: int) -> Tensor:
    """The bytes from `first` to `end` of the tensor's storage."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(
        tensor.untyped_storage(), first, (end - first,), (1,)
    )


@cache
def _name(number: int) -> bytes:
    return _text(str(number))


def _reference(
    dtype: torch.dtype, shape: Iterable[int], strides: Iterable[int], start: int, num_bytes: int
) -> tuple[bytes, bytes]:
    """What comes before and after the number of the storage in the opcodes for a tensor that begins at byte `start`."""
    name, size = _STORAGE_NAMES.get(dtype), dtype.itemsize
    if name is None:  # a type that came after storages had lost theirs
        make, kind = b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch.storage\nUntypedStorage\n"
        length, extra = num_bytes, f"ctorch\n{str(dtype).removeprefix('torch.')}\n".encode()
    else:
        make, kind = b"ctorch._utils\n_rebuild_tensor_v2\n", f"ctorch\n{name}\n".encode()
        length, extra = num_bytes // size, b""
    before = make + _MARK + _MARK + _text("storage") + kind
    after = _text("cpu") + _integer(length) + _TUPLE + _PERSISTENT + _integer(start // size)
    return before, after + _integers(shape) + _integers(strides) + _NO_HOOKS + extra + _TUPLE + _REDUCE


_STORAGE_NAMES = {
    torch.float64: "DoubleStorage",
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage",
    torch.int32: "IntStorage",
    torch.int16: "ShortStorage",
    torch.int8: "CharStorage",
    torch.uint8: "ByteStorage",
    torch.bool: "BoolStorage",
    torch.complex128: "ComplexDoubleStorage",
    torch.complex64: "ComplexFloatStorage",
}
"""How torch.save calls the storage of a type, as every reader knows it."""
