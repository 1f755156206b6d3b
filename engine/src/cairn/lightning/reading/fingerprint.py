"""Digests of values of any kind, for a comparison that is cheap, bounded, and runs no code of the user."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cairn.lightning.reading import iterators, parts
from cairn.lightning.reading.parts import SCALARS

_MAX_TEXT, _MAX_DEPTH, _MAX_ITEMS, _MAX_ELEMENTS = 80, 24, 2048, 1 << 18
"""Longest text that is stored; deepest nesting; items at each end of a container, and elements of a tensor."""
_MAX_READ, _MAX_READ_OF_ALL, _MAX_ELEMENTS_OF_ALL = 5000, 100_000, 1 << 21
"""Values that are read for one attribute, and for all of them together; elements of all tensors together."""
_MAX_BYTES, _MAX_DECIMAL = 1 << 20, 1024
"""Bytes that are read of one object; bits of a number that is written in decimal digits."""
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
_TEXTS = ("decimal", "fractions", "uuid", "ipaddress", "pathlib")
"""Modules of the standard library whose objects are values; a date is a time, which says nothing about a resume."""
EMPTY = "<empty>"
"""Value of an empty container."""
_CONTAINERS: tuple[Any, ...] = (dict, list, tuple, set, frozenset, deque)
_BUFFERS = (bytes, bytearray, memoryview, array)
_UNKNOWN = count()


class Opaque:
    """Value of an attribute that cannot be compared."""


OPAQUE = Opaque()


@dataclass
class Budget:
    """What may still be read in one pass over all attributes."""

    num_elements: int = _MAX_ELEMENTS_OF_ALL
    num_values: int = _MAX_READ_OF_ALL


def plain(value: Any, saved: set[int], budget: Budget, is_seeded: bool = False) -> Any:
    """Return a short scalar as it is, the digest of another value, or `OPAQUE`.

    Args:
        value: Any value.
        saved: Ids of objects, and addresses of tensors, that are in every checkpoint anyway.
        budget: Budget of the pass.
        is_seeded: Whether random generators are seeded by the loader, and are not state.
    """
    kind = type(value)
    if kind in SCALARS and (kind is not int or value.bit_length() <= _MAX_TEXT):
        if kind is not str or len(value) <= _MAX_TEXT:
            return value
    elif (base := next((base for base in _CONTAINERS if issubclass(kind, base)), None)) and not base.__len__(value):
        return EMPTY
    reader = Reader(saved, budget, is_seeded)
    return reader.digest.hexdigest() if reader.add(value) else OPAQUE


@dataclass
class Reader:
    """Feeds values to a digest; see `plain`."""

    saved: set[int]
    budget: Budget
    is_seeded: bool = False
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    seen: dict[int, Any] = field(default_factory=dict)
    """Objects by id: kept alive, so that an id stands for one object."""
    num_left: int = _MAX_READ
    """Values that may still be read."""

    def add(self, value: Any, depth: int = 0) -> bool:
        """Add a value. Returns False if nothing in it can be compared."""
        if id(value) in self.saved or depth > _MAX_DEPTH or not self._charge(1):
            return False
        try:
            return self._add(value, type(value), depth)
        except Exception:  # whatever the user's class, or a closed file, raises
            self._text(f"unreadable {type(value).__name__}")
            return False

    def _add(self, value: Any, kind: type, depth: int) -> bool:
        if kind in SCALARS or issubclass(kind, int | float | complex | str):
            self._text(_scalar(value, kind))
        elif issubclass(kind, Tensor):
            return self._tensor(value)
        elif issubclass(kind, np.ndarray):
            return self._array(value, depth)
        elif issubclass(kind, np.generic | torch.dtype | torch.device | range) or kind.__module__ in _TEXTS:
            self._text(f"{kind.__name__} {value!r}")
        elif issubclass(kind, _GENERATORS):
            return not self.is_seeded and self.add(_state(value), depth)
        elif issubclass(kind, _BUFFERS) or any(base.__module__ == "_ctypes" for base in kind.__mro__):
            self._text(kind.__name__)
            self.digest.update(_content(memoryview(value)))
        elif issubclass(kind, FunctionType | BuiltinFunctionType | type):
            self._text(_identity(value))
            if issubclass(kind, FunctionType):
                self._container(value, kind, depth)
        else:
            return self._container(value, kind, depth)
        return True

    def _container(self, value: Any, kind: type, depth: int) -> bool:
        if (position := iterators.position(value)) is iterators.UNKNOWN:
            self._text(f"position {next(_UNKNOWN)}")  # it may have moved
            return True
        if position is not None:
            self._text(kind.__name__)
            return self._all(position, depth)
        if id(value) in self.seen:
            return False
        self.seen[id(value)] = value
        found = False
        if issubclass(kind, MappingProxyType):
            value, kind = dict(value), dict
        if issubclass(kind, dict):
            found = self._mapping(value, depth)
        elif issubclass(kind, list | tuple | deque):
            found = self._sequence(value, kind, depth)
        elif issubclass(kind, set | frozenset):
            self._set(value, kind)
            found = True
        if issubclass(kind, _CONTAINERS) and kind.__module__ == "builtins":
            return found
        held = [self.add(item, depth + 1) for name, item in parts.of(value) if self._text(name)]  # all of them are read
        return found or any(held)

    def _mapping(self, value: Any, depth: int) -> bool:
        size = dict.__len__(value)
        self._text(f"mapping {size}")
        keys, values = list(islice(dict.keys(value), _MAX_ITEMS)), list(islice(dict.values(value), _MAX_ITEMS))
        if size > _MAX_ITEMS:
            keys += islice(dict.__reversed__(value), min(_MAX_ITEMS, size - _MAX_ITEMS))
            values += islice(reversed(dict.values(value)), min(_MAX_ITEMS, size - _MAX_ITEMS))
        return self._all(keys, depth) | self._all(values, depth) or not size or self._holds_saved(values)

    def _sequence(self, value: Any, kind: type, depth: int) -> bool:
        base: Any = next(base for base in (list, tuple, deque) if issubclass(kind, base))
        size = base.__len__(value)
        self._text(f"sequence {size}")
        items = list(islice(base.__iter__(value), _MAX_ITEMS))
        if size > _MAX_ITEMS:
            items += islice(deque.__reversed__(value) if base is deque else _backwards(value, base), size - _MAX_ITEMS)
        return self._all(items, depth) or not size or self._holds_saved(items)

    def _set(self, value: Any, kind: type) -> None:
        base: Any = set if issubclass(kind, set) else frozenset
        size = base.__len__(value)
        # In which order a set yields its items differs between processes: of a large one, the size is compared.
        items = (
            sorted(map(_text_of, base.__iter__(value))) if size <= _MAX_READ and self._charge(1 + size // 16) else []
        )
        self._text(f"set {size} {items}")

    def _all(self, values: Sequence[Any], depth: int) -> bool:
        if values and all(type(value) in SCALARS for value in values):
            if self._charge(len(values) // 16):
                self._text(f"{[value if type(value) is not int else _number(value) for value in values]}")
            return True
        added = [self.add(value, depth + 1) for value in values]  # all of them are read
        return any(added)

    def _holds_saved(self, values: Sequence[Any]) -> bool:
        """Whether parts of the model are among the items: a checkpoint has their values, but not how many there are."""
        return any(id(value) in self.saved for value in values)

    def _array(self, value: Any, depth: int) -> bool:
        self._text(f"{value.dtype} {tuple(value.shape)}")
        if isinstance(value, np.memmap):  # a file: to read a part of it would read all of its pages from the disk
            return True
        part = _sampled(value, value.size)
        if value.dtype.hasobject:
            return self._all(list(islice(np.ndarray.tolist(part.reshape(-1)[:_MAX_READ]), _MAX_READ)), depth)
        if part.size and self._afford(part.size):
            self.digest.update(np.ascontiguousarray(part).view(np.ndarray).tobytes())
        return True

    def _tensor(self, value: Any) -> bool:
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            if value.is_nested:
                added = [self._tensor(part) for part in value.unbind()[:_MAX_ITEMS]]
                return any(added)
            self._text(f"{value.dtype} {tuple(value.shape)}")
            if value.layout is torch.sparse_coo:
                return self._tensor(value._values()) | self._tensor(value._indices())
            if value.layout is not torch.strided:
                return self._tensor(value.values())
            if value.is_meta or not value.numel():
                return True
            value = value.int_repr() if value.is_quantized else value.detach().resolve_conj().resolve_neg()
            if value.untyped_storage().data_ptr() in self.saved:  # a view of a parameter or buffer
                return False
            part = _sampled(value, value.numel())
            if self._afford(part.numel()):
                self._text(_sums(part.reshape(-1)))
            return True

    def _afford(self, num_elements: int) -> bool:
        self.budget.num_elements -= num_elements
        return self.budget.num_elements >= 0

    def _charge(self, num_values: int) -> bool:
        self.num_left, self.budget.num_values = max(0, self.num_left - num_values), self.budget.num_values - num_values
        return self.num_left > 0 and self.budget.num_values > 0

    def _text(self, text: str) -> bool:
        self.digest.update(text.encode("utf-8", "replace") + b"\0")
        return True


def _identity(value: Any) -> str:
    """Return a text that distinguishes a function or class from others, and is the same in every process."""
    text, code = f"named {value.__qualname__}", getattr(value, "__code__", None)
    if type(code) is not CodeType:
        return text
    return f"{text} {code.co_code.hex()} {code.co_names} {[item for item in code.co_consts if type(item) in SCALARS]}"


def _scalar(value: Any, kind: type) -> str:
    """Return a number or a text as text, without methods of a class of the user."""
    if issubclass(kind, bool | type(None)):
        return repr(value)
    if issubclass(kind, int):  # a long one has no decimal form
        return f"{kind.__name__} {int.__format__(value, 'x' if int.bit_length(value) > _MAX_DECIMAL else 'd')}"
    if issubclass(kind, float | complex):
        return f"{kind.__name__} {(float if issubclass(kind, float) else complex).__repr__(value)}"
    whole = str.__str__(value)  # a whole corpus may be one string
    return f"{kind.__name__} {len(whole)} {whole[:_MAX_READ]} {whole[-_MAX_READ:]}"


def _content(value: memoryview) -> bytes:
    """Return the size of a buffer, and its beginning and end."""
    value = value.cast("B") if value.c_contiguous else memoryview(value.tobytes())
    ends = value if len(value) <= _MAX_BYTES else bytes(value[: _MAX_BYTES // 2]) + bytes(value[-_MAX_BYTES // 2 :])
    return b"%d " % len(value) + ends


def _backwards(value: Any, base: Any) -> Iterable[Any]:
    return base.__getitem__(value, slice(None, -_MAX_ITEMS - 1, -1))


def _number(value: int) -> int | str:
    return value if value.bit_length() <= _MAX_DECIMAL else hex(value)


def _text_of(value: Any) -> str:
    """Return a text that says what a member of a set is, as far as that runs no code of the user."""
    kind = type(value)
    if kind is tuple:
        return f"({', '.join(map(_text_of, value))})"
    if kind is int:
        return str(_number(value))
    return repr(value) if kind in (*SCALARS, bytes, complex, torch.dtype, torch.device) else kind.__name__


def _sampled(value: Any, size: int) -> Any:
    """Return elements from the whole of an array or tensor, without a copy of all of it."""
    step = -(-size // _MAX_ELEMENTS)
    if step <= 1:
        return value
    is_contiguous = value.is_contiguous() if isinstance(value, Tensor) else value.flags.c_contiguous
    if is_contiguous:
        return value.reshape(-1)[::step]
    for axis in range(value.ndim - 1, -1, -1):
        here = min(step, value.shape[axis])
        value = value[(slice(None),) * axis + (slice(None, None, here),)]
        step = -(-step // here)
    return value


def _sums(part: Tensor) -> str:
    """Return sums in place of bytes, so that a large tensor stays on its device."""
    part = torch.view_as_real(part).reshape(-1) if part.is_complex() else part
    exact = part.to(torch.float32 if part.device.type == "mps" else torch.float64)
    weights = torch.arange(1, exact.numel() + 1, device=part.device, dtype=exact.dtype)
    return f"{float(exact.sum())!r} {float(exact @ weights)!r} {part[:8].tolist()}"


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return list(random.Random.getstate(generator)[1])
    if isinstance(generator, np.random.RandomState):
        return list(generator.get_state(legacy=False).values())
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return (generator if isinstance(generator, np.random.BitGenerator) else generator.bit_generator).state
