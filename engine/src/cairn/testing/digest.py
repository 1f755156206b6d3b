"""Digests of values: equal values have equal digests in every process, whatever their size."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCALARS = (bool, int, float, complex, str, bytes, type(None))
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)
_LEAVES = (*SCALARS, *GENERATORS, Tensor, np.ndarray, np.generic, PurePath, range, slice, itertools.count)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_DEEPEST = 6
_LONGEST_ITEMS, _LONGEST_BYTES = 4096, 1 << 22
"""Limits of one list and of one tensor if not all is read: of a longer one, samples from its whole length are."""
_LONGEST_TEXT = 40


def is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether a value consists of numbers, texts, tensors and generators, in lists and dicts or alone."""
    if isinstance(value, _LEAVES):
        return True
    if depth == _DEEPEST or not isinstance(value, _CONTAINERS):
        return False
    return all(is_plain(item, depth + 1) for item in _items(value.values() if isinstance(value, dict) else value))


def shown(value: Any, whole: bool = True) -> Any:
    """Return a plain value as a JSON value: itself if it is short, else its kind and a digest; see `digest`."""
    value = _of_this_process(value)
    if isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1 and value.dtype != object:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # NaN would differ from itself
    if isinstance(value, bool | int | float | type(None)):
        return value
    if isinstance(value, itertools.count | range | PurePath) or (
        isinstance(value, str | bytes | list | tuple | dict) and _is_short(value)
    ):
        return value if isinstance(value, str) else repr(value)
    size = f" {tuple(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    size = f" of {len(value)}" if not size and hasattr(value, "__len__") else size
    return f"<{type(value).__name__}{size}, {digest(value, whole)}>"


def digest(value: Any, whole: bool = True) -> str:
    """Return a short text that is equal for equal values.

    Args:
        value: Any value.
        whole: Read all of it. Otherwise, only samples of a large tensor or list are read, see `is_sampled`.
    """
    found = hashlib.blake2b(digest_size=4)
    _feed(found, value, whole)
    return found.hexdigest()


def is_sampled(value: Any, depth: int = 0) -> bool:
    """Return whether a plain value is so large that `digest` reads only samples of it, unless it reads the whole."""
    if isinstance(value, Tensor):
        return _step(value.numel() * value.element_size()) > 1
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _step(value.nbytes) > 1
    if not isinstance(value, _CONTAINERS) or depth == _DEEPEST:
        return False
    if isinstance(value, set | frozenset):
        return False
    items = value.values() if isinstance(value, dict) else value
    return len(value) // _LONGEST_ITEMS > 1 or any(is_sampled(item, depth + 1) for item in items)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts and lists with their paths, as JSON values."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from flat(item, f"{prefix}[{index}]")
    else:
        yield prefix, shown(value) if is_plain(value) else digest(value)


def _is_short(value: Any) -> bool:
    if len(value) > _LONGEST_TEXT:
        return False
    items = value.values() if isinstance(value, dict) else value
    scalars = isinstance(value, str | bytes) or all(isinstance(item, bool | int | float | str) for item in items)
    return scalars and len(repr(value)) <= _LONGEST_TEXT


def _items(values: Any, whole: bool = False) -> Iterator[Any]:
    """Yield all items; of a long sequence some from its whole length."""
    step = 1 if whole else max(1, len(values) // _LONGEST_ITEMS)
    return itertools.islice(iter(values), 0, None, step)


def _feed(found: Any, value: Any, whole: bool, depth: int = 0) -> None:
    if isinstance(value, Tensor):
        _feed_tensor(found, value, whole)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        found.update(f"{value.dtype}{value.shape}".encode())
        found.update(np.ascontiguousarray(value.reshape(-1)[:: 1 if whole else _step(value.nbytes)]).tobytes())
    elif isinstance(value, Mapping):
        found.update(f"{len(value)};".encode())
        for key in _items(value, whole):
            found.update(f"{key!r}:".encode() if isinstance(key, SCALARS) else b"?")
            _feed(found, value[key], whole, depth + 1)
    elif isinstance(value, set | frozenset):
        found.update(repr(sorted(map(repr, value))).encode())  # their order differs between processes
    elif isinstance(value, list | tuple | np.ndarray | deque):
        found.update(f"{len(value)};".encode())
        for item in _items(value, whole):
            _feed(found, item, whole, depth + 1)
    elif isinstance(value, GENERATORS):
        _feed(found, _generator_state(value), whole, depth + 1)
    elif isinstance(value, (*SCALARS, np.generic, PurePath, range, slice, itertools.count)):
        found.update(repr(value).encode())
    else:
        found.update(type(value).__qualname__.encode())
        if depth < _DEEPEST and not callable(value):  # a batch may be an object of any class
            _feed(found, getattr(value, "__dict__", {}), whole, depth + 1)


def _of_this_process(value: Any) -> Any:
    """Return the part of a tensor that this process has, if the tensor is divided: another part is on another rank."""
    return value.to_local() if isinstance(value, Tensor) and hasattr(value, "to_local") else value


def _feed_tensor(found: Any, value: Tensor, whole: bool) -> None:
    value = _of_this_process(value)
    found.update(f"{value.dtype}{tuple(value.shape)}".encode())
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        value = value.coalesce().values() if value.layout == torch.sparse_coo else torch.zeros(0)
    step = 1 if whole else _step(value.numel() * value.element_size())
    flat_value = value.detach().reshape(-1)[::step]
    found.update(flat_value.cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _step(num_bytes: int) -> int:
    return max(1, num_bytes // _LONGEST_BYTES)


def _generator_state(value: Any) -> Any:
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state()
    state = value.get_state(legacy=False) if isinstance(value, np.random.RandomState) else value
    return state if isinstance(state, dict) else getattr(state, "bit_generator", state).state
