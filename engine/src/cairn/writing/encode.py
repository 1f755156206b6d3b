"""Encodes a state as it lies in a file: a pickle of plain values, and the storages of its tensors.

The pickle has the form that `torch.save` writes and `torch.load(weights_only=True)` reads (protocol 2). It is written
here because one walk over the state can then check every value and name the ones that are refused, and because a tensor
that views a small part of a large storage takes only that part into the file:

    state      {"w": a[2:5], "n": 7}          a: a large storage
    pickle     {"w": <rebuild tensor: storage "0", shape, strides>, "n": 7}
    storages   "0": the bytes of a[2:5]       one per storage: what all of its tensors together span
"""

from __future__ import annotations

import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cairn.errors import UnsafeStateError

TensorSpec = tuple[torch.dtype, torch.Size, tuple[int, ...], int]
"""Type, shape, strides and storage offset of a tensor: everything except its memory."""


@dataclass(frozen=True)
class Encoded:
    """A state, ready to be laid out in a file.

    Attributes:
        pickle: The values; it refers to the storages by number.
        storages: Live tensors, one per storage of the file, whose memory is to be copied.
        specs: Specs of `storages`.
        sizes: Sizes of the storages, in bytes.
        num_converted: Numbers of numpy that have become Python's.
    """

    pickle: bytes
    storages: list[Tensor]
    specs: list[TensorSpec]
    sizes: tuple[int, ...]
    num_converted: int = 0


@dataclass(eq=False)
class Constant:
    """A part of a state that never changes: it is encoded once, however often the same object is saved.

    Attributes:
        value: The part. It must not change.
        opcodes: How it was encoded; None: not yet, or it holds tensors or numbers of numpy.
    """

    value: Any
    opcodes: bytes | None = None


@dataclass(frozen=True, eq=False)
class Apart:
    """A part of a state whose tensors share no memory in the file, as after a transfer to another process.

    Attributes:
        value: The part. A tensor that occurs twice in it is one tensor, unless it is on a GPU.
    """

    value: Any


class Encoder:
    """Encodes one state after the other and reuses the layout of the tensors while it does not change.

    Args:
        stand_ins: Accept tensors of the device `meta`: they stand for storages whose bytes other files have.
    """

    def __init__(self, stand_ins: bool = False) -> None:
        self._stand_ins = stand_ins
        self._known, self._texts, self._most_texts = _Storages([], [], []), _Texts(), -1

    def encode(self, state: Any, name: str = "checkpoint") -> Encoded:
        """Encode a state; its tensors are referred to, not copied.

        Args:
            state: Tensors, numbers, strings, bytes, None, types, sizes and devices of torch, and lists, tuples, sets
                and dicts of them. Numbers of numpy become Python's and parameters become tensors; a file that is
                loaded has all tensors on the CPU.
            name: Name of the state in errors.

        Returns:
            The encoded state.

        Raises:
            UnsafeStateError: A value is of another kind, so the file could not be loaded with `weights_only=True`. The
                message names the path to the value.
        """
        try:
            return self._encode(state)
        except _Refused as refused:
            raise UnsafeStateError(refused.sentence(name)) from None

    def _encode(self, state: Any) -> Encoded:
        if is_first := len(self._texts) > self._most_texts:
            self._texts.clear()  # some texts differ in each save, and those of former ones pile up
        walk = _Walk(self._texts, stand_ins=self._stand_ins)
        walk.add(state)
        if is_first:
            self._most_texts = 2 * len(self._texts)
        specs, memories = _specs(walk.tensors), _memories(walk.tensors, walk.apart)
        if (self._known.specs, self._known.memories) != (specs, memories):
            try:
                self._known = _Storages(walk.tensors, specs, memories)
            except _TwoTypes as error:
                # Repeats the walk, which raises with the path to the tensor.
                _Walk(self._texts, error.number, self._stand_ins).add(state)
                raise
        known = self._known
        opcodes = walk.opcodes(known.references)
        return Encoded(opcodes, known.of(walk.tensors), known.own_specs, known.sizes, walk.num_converted)


def encode(state: Any, name: str = "checkpoint") -> Encoded:
    """Encode a single state, see `Encoder.encode`."""
    return Encoder().encode(state, name)


class _Refused(Exception):
    """A value that cannot be encoded. Each level of the walk that it passes prepends its part of the path."""

    def __init__(self, what: str, instead: str) -> None:
        self.what, self.instead, self.path = what, instead, ""

    def sentence(self, name: str) -> str:
        where = name + self.path
        return f"{where} {self.what}: {self.instead}{_hint(where)}."


class _TwoTypes(Exception):
    """Two tensors read the same memory as different types, which the format cannot express.

    Attributes:
        number: Number of the second tensor, in the order of the walk.
    """

    def __init__(self, number: int) -> None:
        self.number = number


_KINDS = (
    "a checkpoint holds only tensors, numbers, strings, lists and dicts, so that loading it cannot run code. Store "
    "plain values instead"
)


_ONE_TYPE = "a file holds each piece of memory once, with one type. Store a clone() of one of the tensors"


def _hint(where: str) -> str:
    hparams = "hyper_parameters" in where
    return ". Leave an argument out with self.save_hyperparameters(ignore=[...])" if hparams else ""


_MARK, _TUPLE, _REDUCE, _BUILD = b"(", b"t", b"R", b"b"
_ORDERED = b"ccollections\nOrderedDict\n)R"
_NO_HOOKS = b"\x89" + _ORDERED  # requires_grad=False, and no backward hooks
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


_LONGEST_NAME = 256
"""Opcodes of longer texts are not kept."""


class _Texts(dict[str, bytes]):
    """Opcodes by text. Most texts of a state are names, the same ones in each save."""

    def __missing__(self, text: str) -> bytes:
        found = _text(text)
        if len(text) <= _LONGEST_NAME:
            self[text] = found
        return found


class _Walk:
    """Writes opcodes; those of tensors are left open until it is known which of them share a storage."""

    def __init__(self, texts: _Texts, refused: int | None = None, stand_ins: bool = False) -> None:
        self.tensors: list[Tensor] = []
        self.apart: set[int] = set()
        """Numbers of the tensors that are inside of an `Apart`."""
        self._is_apart = False
        self._refused, self._stand_ins = refused, stand_ins
        self._parts: list[bytes] = [pickle.PROTO + b"\x02"]
        self._open: list[int] = []
        """Indices of the parts that refer to tensors."""
        self._texts = texts
        self._scalars: dict[type, Callable[[Any], bytes]] = {**_SCALARS, str: texts.__getitem__}
        self.num_converted = 0

    def add(self, value: Any) -> None:
        if (opcode := self._scalars.get(type(value))) is not None:
            self._parts.append(opcode(value))
        elif (add := _ADD.get(type(value))) is not None:
            add(self, value)
        elif isinstance(value, np.generic) and type(value.item()) in self._scalars:
            self.num_converted += 1
            self.add(value.item())
        else:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise _Refused(f"is a {kind}", _KINDS)

    def opcodes(self, references: Iterable[bytes]) -> bytes:
        """Join everything, with the opcodes that rebuild each tensor."""
        for part, reference in zip(self._open, references, strict=True):
            self._parts[part] = reference
        return b"".join([*self._parts, pickle.STOP])

    def _add_list(self, value: list[Any]) -> None:
        self._parts.append(pickle.EMPTY_LIST + _MARK)
        self._add_all(value)
        self._parts.append(pickle.APPENDS)

    def _add_tuple(self, value: tuple[Any, ...]) -> None:
        self._parts.append(_MARK)
        self._add_all(value)
        self._parts.append(_TUPLE)

    # Most of the time of a walk is spent in the next two loops: for most values, one look-up and one call are enough.

    def _add_all(self, values: Iterable[Any]) -> None:
        scalars, append = self._scalars, self._parts.append
        for number, value in enumerate(values):
            try:
                if (opcode := scalars.get(type(value))) is not None:
                    append(opcode(value))
                else:
                    _ADD.get(type(value), _Walk.add)(self, value)
            except _Refused as refused:
                refused.path = f"[{number}]{refused.path}"
                raise

    def _add_items(self, value: Mapping[Any, Any], empty: bytes = pickle.EMPTY_DICT) -> None:
        texts, scalars, append = self._texts, self._scalars, self._parts.append
        append(empty + _MARK)
        for key, item in value.items():
            if type(key) is str:
                append(texts[key])
            else:
                self._add_key(key)
            try:
                if (opcode := scalars.get(type(item))) is not None:
                    append(opcode(item))
                else:
                    _ADD.get(type(item), _Walk.add)(self, item)
            except _Refused as refused:
                refused.path = f"[{key!r}]{refused.path}"
                raise
        append(pickle.SETITEMS)
        if type(value) is not dict and hasattr(value, "_metadata"):  # torch adds it to a module's state_dict
            self._add_attributes({"_metadata": value._metadata})

    def _add_attributes(self, attributes: dict[str, Any]) -> None:
        self.add(attributes)
        self._parts.append(_BUILD)

    def _add_call(self, function: bytes, *arguments: Any) -> None:
        """Add a value that one of the few functions of `weights_only=True` returns, such as a set."""
        self._parts.append(b"c" + function)
        self._add_tuple(arguments)
        self._parts.append(_REDUCE)

    def _add_set(self, value: set[Any]) -> None:
        # Sorted: the order of strings in a set differs between processes, and two equal runs write equal files.
        self._add_call(b"builtins\nset\n", sorted(value, key=repr))

    def _add_constant(self, constant: Constant) -> None:
        if constant.opcodes is not None:
            self._parts.append(constant.opcodes)
            return
        first, others = len(self._parts), (len(self.tensors), self.num_converted)
        self.add(constant.value)
        if others == (len(self.tensors), self.num_converted):
            constant.opcodes = b"".join(self._parts[first:])

    def _add_apart(self, apart: Apart) -> None:
        before, self._is_apart = self._is_apart, True
        self.add(apart.value)
        self._is_apart = before

    def _add_dtype(self, value: torch.dtype) -> None:
        self._parts.append(f"ctorch\n{str(value).removeprefix('torch.')}\n".encode())

    def _add_key(self, key: Any) -> None:
        parts = key if type(key) is tuple else (key,)
        if type(key) not in (str, int) and any(type(part) not in self._scalars for part in parts):
            raise _Refused(f"has the key {key!r} of type {type(key).__name__}", "use a string or a number")
        self.add(key)

    def _add_tensor(self, tensor: Tensor) -> None:
        is_refused = tensor.is_meta and not self._stand_ins
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or is_refused:
            raise _Refused(f"is a tensor of a special kind ({tensor.layout}, {tensor.dtype})", _KINDS)
        if self._refused == len(self.tensors):
            raise _Refused(f"shares memory with a tensor of another type than its own ({tensor.dtype})", _ONE_TYPE)
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        if self._is_apart:
            self.apart.add(len(self.tensors))
        self._open.append(len(self._parts))
        self.tensors.append(tensor)
        self._parts.append(b"")


_SCALARS: dict[type, Callable[[Any], bytes]] = {
    bool: {True: pickle.NEWTRUE, False: pickle.NEWFALSE}.__getitem__,
    int: _integer,
    float: partial(struct.Struct(">cd").pack, pickle.BINFLOAT),
    type(None): {None: pickle.NONE}.__getitem__,
}
"""Functions that return the opcodes of a value, by type; those of texts depend on the walk."""
_ADD: dict[type, Callable[[_Walk, Any], None]] = {
    Tensor: _Walk._add_tensor,
    nn.Parameter: _Walk._add_tensor,
    list: _Walk._add_list,
    tuple: _Walk._add_tuple,
    dict: _Walk._add_items,
    OrderedDict: lambda walk, value: walk._add_items(value, _ORDERED),
    Counter: lambda walk, value: walk._add_items(value, b"ccollections\nCounter\n)R"),
    set: _Walk._add_set,
    bytes: lambda walk, value: walk._add_call(b"_codecs\nencode\n", value.decode("latin-1"), "latin-1"),
    complex: lambda walk, value: walk._add_call(b"builtins\ncomplex\n", value.real, value.imag),
    torch.Size: lambda walk, value: walk._add_call(b"torch\nSize\n", tuple(value)),
    torch.device: lambda walk, value: walk._add_call(b"torch\ndevice\n", str(value)),
    torch.dtype: _Walk._add_dtype,
    Constant: _Walk._add_constant,
    Apart: _Walk._add_apart,
}
"""Functions that add a value, by type. Not attributes of a walk: the cycle would keep its tensors alive for a while."""


def _specs(tensors: Iterable[Tensor]) -> list[TensorSpec]:
    return [(tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset())) for tensor in tensors]


def _memories(tensors: Iterable[Tensor], apart: Collection[int]) -> list[int]:
    """Return the number of each tensor's storage; storages are numbered in the order of the walk.

    Args:
        tensors: The tensors.
        apart: Numbers of those that share no memory in the file.
    """
    numbers: dict[int | tuple[str, int], int] = {}
    found: list[int] = []
    for number, tensor in enumerate(tensors):
        # An empty storage has no address, and shares nothing: it gets a number of its own. A stand-in has no address,
        # either, and may be shared.
        storage, own = tensor.untyped_storage(), -len(found) - 1
        address: int | tuple[str, int] = storage.data_ptr() or (storage._cdata if tensor.is_meta else own)
        if number in apart:
            address = own if tensor.is_cuda else ("tensor", id(tensor))
        found.append(numbers.setdefault(address, len(numbers)))
    return found


@dataclass(frozen=True)
class _Span:
    """The part of a storage that a tensor spans; the same for all tensors of one spec."""

    first: int
    """First byte of the storage."""
    end: int
    """Byte after the last one."""
    before: bytes
    after: bytes
    """Opcodes before and after the number of the storage, if the file holds just this part of it."""


@dataclass
class _Part:
    """The part of a storage that goes into the file: what all of its tensors together span."""

    number: int
    """Number of a tensor in it: the last one that has enlarged the part."""
    first: int
    end: int


class _Storages:
    """The parts of storages that go into a file.

    Args:
        tensors: Tensors of a state, in the order of the walk; they are not kept.
        specs: Their specs.
        memories: The numbers of their storages.

    Attributes:
        references: Opcodes that rebuild each tensor.
        own_specs: Specs of what is copied for each storage.
        sizes: Sizes of that, in bytes.

    Raises:
        _TwoTypes: Two tensors read one storage as different types.
    """

    def __init__(self, tensors: list[Tensor], specs: list[TensorSpec], memories: list[int]) -> None:
        self.specs, self.memories = specs, memories
        span_of = cache(_span)  # few specs differ
        spans = [span_of(spec) for spec in specs]
        parts = _parts(specs, spans, memories)
        self.references = [
            _reference_to(spec, span, memory, parts[memory])
            for spec, span, memory in zip(specs, spans, memories, strict=True)
        ]
        self._chosen = [part.number for part in parts]
        self._pieces = [
            (memory, part.first, part.end)
            for memory, part in enumerate(parts)
            if not _fills(tensors[part.number], part.end - part.first)
        ]
        self.own_specs = _specs(self.of(tensors))
        self.sizes = tuple(part.end - part.first for part in parts)

    def of(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return what to copy for each storage: one of its tensors if that is all of the part, else plain bytes."""
        found = [tensors[number] for number in self._chosen]
        for memory, first, end in self._pieces:
            found[memory] = piece(found[memory], first, end)
        return found


def _parts(specs: list[TensorSpec], spans: list[_Span], memories: list[int]) -> list[_Part]:
    parts: list[_Part] = []
    for number, (span, memory) in enumerate(zip(spans, memories, strict=True)):
        if memory == len(parts):
            parts.append(_Part(number, span.first, span.end))
            continue
        part = parts[memory]
        if specs[part.number][0] != specs[number][0]:
            raise _TwoTypes(number)
        if span.first < part.first or span.end > part.end:
            parts[memory] = _Part(number, min(span.first, part.first), max(span.end, part.end))
    return parts


def _span(spec: TensorSpec) -> _Span:
    dtype, shape, strides, offset = spec
    length = 0 if 0 in shape else 1 + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    first = offset * dtype.itemsize
    num_bytes = length * dtype.itemsize
    return _Span(first, first + num_bytes, *_reference(dtype, shape, strides, 0, num_bytes))


def _reference_to(spec: TensorSpec, span: _Span, memory: int, part: _Part) -> bytes:
    before, after = span.before, span.after
    if (span.first, span.end) != (part.first, part.end):  # other tensors need more of this storage
        dtype, shape, strides, _ = spec
        before, after = _reference(dtype, shape, strides, span.first - part.first, part.end - part.first)
    return before + _number(memory) + after


def _fills(tensor: Tensor, num_bytes: int) -> bool:
    """True if the tensor has exactly these bytes, in order and without gaps."""
    return tensor.nbytes == num_bytes and tensor.is_contiguous()


def piece(tensor: Tensor, first: int, end: int) -> Tensor:
    """Bytes `first` to `end` of the tensor's storage."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(
        tensor.untyped_storage(), first, (end - first,), (1,)
    )


@cache
def _number(number: int) -> bytes:
    return _text(str(number))


def _reference(
    dtype: torch.dtype, shape: Iterable[int], strides: Iterable[int], start: int, num_bytes: int
) -> tuple[bytes, bytes]:
    """Opcodes of a tensor that begins at byte `start`: those before and those after the number of its storage."""
    name, size = STORAGE_NAMES.get(dtype), dtype.itemsize
    if name is None:  # a newer type: its storage is untyped
        make, kind = b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch.storage\nUntypedStorage\n"
        length, extra = num_bytes, f"ctorch\n{str(dtype).removeprefix('torch.')}\n".encode()
    else:
        make, kind = b"ctorch._utils\n_rebuild_tensor_v2\n", f"ctorch\n{name}\n".encode()
        length, extra = num_bytes // size, b""
    before = make + _MARK + _MARK + _text("storage") + kind
    after = _text("cpu") + _integer(length) + _TUPLE + _PERSISTENT + _integer(start // size)
    return before, after + _integers(shape) + _integers(strides) + _NO_HOOKS + extra + _TUPLE + _REDUCE


STORAGE_NAMES = {
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
"""Names of typed storages in files of torch.save, by type."""
