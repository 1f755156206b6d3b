"""WHAT a state looks like in a file: a pickle of plain values, and beside it the storages of its tensors.

The pickle is the one that `torch.save` makes and `torch.load(weights_only=True)` reads (protocol 2), but written here:
one walk checks every value, by name, and a tensor that views a part of a big storage takes only that part along.
"""

from __future__ import annotations

import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cairn.checkpoint.errors import UnsafeStateError


@dataclass(frozen=True)
class Encoded:
    """A state, ready to be laid out."""

    pickle: bytes
    storages: list[Tensor]
    """Live tensors, one for each storage of the file: what their memory holds, from the first to the last byte."""

    @property
    def sizes(self) -> list[int]:
        """Of the storages, in bytes."""
        return [storage.nbytes for storage in self.storages]


def encode(state: Any, name: str = "checkpoint") -> Encoded:
    """Encode a state; its tensors are referred to, not copied.

    Args:
        state: tensors, numbers, strings, None, and lists, tuples and dicts of them. numpy's numbers become Python's
            and parameters become tensors; all tensors are on the CPU when they are loaded again.
        name: what errors call it.

    Raises:
        UnsafeStateError: something in it is of another kind, so that the file could not be loaded with
            `weights_only=True`; the way to it is named.
    """
    try:
        return _encode(state)
    except _Refused as refused:
        raise UnsafeStateError(refused.sentence(name)) from None


def _encode(state: Any) -> Encoded:
    encoder = _Encoder()
    encoder.add(state)
    try:
        return encoder.encoded()
    except _TwoTypes as error:
        _Encoder(refused=error.number).add(state)  # the same walk again: it knows the way to the tensor
        raise


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


class _Encoder:
    """Writes opcodes. Tensors are left open until all are known: which of them share a storage, and what of it."""

    def __init__(self, refused: int | None = None) -> None:
        self._refused = refused
        self._parts: list[bytes] = [pickle.PROTO + b"\x02"]
        self._tensors: list[tuple[int, Tensor]] = []
        """With the number of the part that refers to it."""
        self._texts: dict[str, bytes] = {}
        self._add: dict[type, Callable[[Any], None]] = {
            Tensor: self._add_tensor,
            nn.Parameter: lambda value: self._add_tensor(value.detach()),
            str: self._add_text,
            bool: lambda value: self._parts.append(pickle.NEWTRUE if value else pickle.NEWFALSE),
            int: lambda value: self._parts.append(_integer(value)),
            float: lambda value: self._parts.append(pickle.BINFLOAT + struct.pack(">d", value)),
            type(None): lambda value: self._parts.append(pickle.NONE),
            list: self._add_list,
            tuple: self._add_tuple,
            dict: lambda value: self._add_items(value, pickle.EMPTY_DICT),
            OrderedDict: lambda value: self._add_items(value, _ORDERED),
            Counter: lambda value: self._add_items(value, b"ccollections\nCounter\n)R"),
        }

    def add(self, value: Any) -> None:
        add = self._add.get(type(value))
        if add is not None:
            add(value)
        elif isinstance(value, np.generic) and type(value.item()) in _SCALARS:
            self.add(value.item())
        else:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise _Refused(f"is a {kind}", _KINDS)

    def encoded(self) -> Encoded:
        storages = _Storages(tensor for _, tensor in self._tensors)
        for (part, _), reference in zip(self._tensors, storages.references(), strict=True):
            self._parts[part] = reference
        return Encoded(b"".join([*self._parts, pickle.STOP]), storages.spans())

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
        number = 0
        try:
            for value in values:
                self.add(value)
                number += 1
        except _Refused as refused:
            refused.way = f"[{number}]{refused.way}"
            raise

    def _add_items(self, value: Mapping[Any, Any], empty: bytes) -> None:
        self._parts.append(empty + _MARK)
        for key, item in value.items():
            self._add_key(key)
            try:
                self.add(item)
            except _Refused as refused:
                refused.way = f"[{key!r}]{refused.way}"
                raise
        self._parts.append(pickle.SETITEMS)
        if hasattr(value, "_metadata"):  # what torch hangs on a module's state_dict
            self._add_attributes({"_metadata": value._metadata})

    def _add_attributes(self, attributes: dict[str, Any]) -> None:
        self.add(attributes)
        self._parts.append(_BUILD)

    def _add_key(self, key: Any) -> None:
        if type(key) is not str and any(type(part) not in _SCALARS for part in (key if type(key) is tuple else (key,))):
            raise _Refused(f"has the key {key!r} of type {type(key).__name__}", "use a string or a number")
        self.add(key)

    def _add_tensor(self, tensor: Tensor) -> None:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise _Refused(f"is a tensor of a special kind ({tensor.layout}, {tensor.dtype})", _KINDS)
        if self._refused == len(self._tensors):
            raise _Refused(f"shares memory with a tensor of another type than its own ({tensor.dtype})", _ONE_TYPE)
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        self._tensors.append((len(self._parts), tensor))
        self._parts.append(b"")


_SCALARS = (bool, int, float, str, type(None))  # not bytes: weights_only=True does not read them


@dataclass(frozen=True)
class _Kind:
    """What tensors of the same type, shape and place in their storage have in common."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int
    """Byte of the storage that the tensor begins with."""
    end: int
    """Byte behind the last one that it spans."""
    before: bytes
    after: bytes
    """The opcodes around the number of a storage that is just what the tensor spans."""


class _Storages:
    """What of which storage goes into the file: for each, the part that its tensors span, once."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._kinds: dict[Any, _Kind] = {}
        self._numbers: dict[int, int] = {}
        self._wholes: list[tuple[Tensor, int, int]] = []
        """For each storage a tensor in it, and the bytes that some tensor takes of it, from the first to the end."""
        self._seen: list[tuple[_Kind, int]] = []
        for tensor in tensors:
            self._see(tensor)

    def spans(self) -> list[Tensor]:
        """What to copy."""
        return [_span(*whole) for whole in self._wholes]

    def references(self) -> Iterator[bytes]:
        """The opcodes that make each tensor again, in order."""
        for kind, number in self._seen:
            _, first, end = self._wholes[number]
            before, after = kind.before, kind.after
            if (kind.first, kind.end) != (first, end):  # others have more of this storage
                before, after = _reference(kind.dtype, kind.shape, kind.strides, kind.first - first, end - first)
            yield before + _name(number) + after

    def _see(self, tensor: Tensor) -> None:
        key = (tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _kind(tensor)
        # Nothing in it: it has no address, and shares nothing.
        where = tensor.untyped_storage().data_ptr() or -len(self._seen) - 1
        number = self._numbers.setdefault(where, len(self._wholes))
        if number == len(self._wholes):
            self._wholes.append((tensor, kind.first, kind.end))
        else:
            whole, first, end = self._wholes[number]
            if whole.dtype != kind.dtype:
                raise _TwoTypes(len(self._seen))
            if kind.first < first or kind.end > end:
                self._wholes[number] = (tensor, min(kind.first, first), max(kind.end, end))
        self._seen.append((kind, number))


def _kind(tensor: Tensor) -> _Kind:
    size, shape, strides = tensor.element_size(), tensor.shape, tensor.stride()
    length = (
        0
        if tensor.numel() == 0
        else 1 + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    )
    first = int(tensor.storage_offset()) * size
    before, after = _reference(tensor.dtype, shape, strides, 0, length * size)
    return _Kind(tensor.dtype, shape, strides, first, first + length * size, before, after)


def _span(tensor: Tensor, first: int, end: int) -> Tensor:
    """The bytes from `first` to `end` of the tensor's storage: itself if it is just that, else as plain bytes."""
    if tensor.nbytes == end - first and tensor.is_contiguous():
        return tensor
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


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


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
