"""Trial of a sampler before training: is what it draws a function of (seed, epoch)?"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cairn.data.seeding import seeded

_MOST_ITEMS = 1 << 20
"""A trial draws at most this many items, which takes a second."""
_MOST_VALUES, _DEEPEST = 10_000, 4
"""Limits of a comparison: items of one container, and how deep containers and objects may be nested."""
_SHARED = ("data_source", "dataset", "data")
"""Attributes of a sampler that a trial does not copy."""


def history_of(sampler: Any, prepare: Callable[[Any], None], seed: int) -> str:
    """Draw an epoch twice with a copy of a sampler, and compare.

    A sampler that is a function of (seed, epoch) draws the same twice, and is afterwards in the same state twice.

    Args:
        sampler: Yields indices, or lists of indices.
        prepare: Called with the sampler before each of the draws.
        seed: Seed of the global generators.

    Returns:
        What depends on earlier draws, as the beginning of a sentence; empty if nothing does.
    """
    name = type(sampler).__name__
    try:
        twin = _copied(sampler)
    except Exception as error:  # whatever the user's class raises
        return f"{name} cannot be copied and so cannot be checked ({type(error).__name__}: {error})"
    draws, states = [], []
    for _ in range(2):
        prepare(twin)
        with seeded(seed):
            draws.append([_plain(item) for item in islice(iter(twin), _MOST_ITEMS)])
        states.append(snapshot(twin))
    if changed := changes(*states):
        return f"{name}.{changed[0]} changes each time {name} is iterated"
    return f"{name} draws other samples each time it is iterated" if draws[0] != draws[1] else ""


def _copied(sampler: Any) -> Any:
    shared: dict[int, Any] = {}
    waiting = [sampler]
    while waiting:
        attributes = getattr(waiting.pop(), "__dict__", {})
        for name, value in attributes.items():
            if name in _SHARED or isinstance(value, Dataset):
                shared[id(value)] = value
            elif name in ("sampler", "batch_sampler"):
                waiting.append(value)
    return copy.deepcopy(sampler, shared)


def _plain(item: Any) -> Any:
    if isinstance(item, (list, tuple)):
        return [_plain(part) for part in item]
    return item.tolist() if isinstance(item, (torch.Tensor, np.ndarray, np.generic)) else item


def snapshot(sampler: Any, depth: int = 0) -> dict[str, Any]:
    """Return copies of the plain attributes of a sampler: numbers, strings, arrays, tensors, and containers of them."""
    found: dict[str, Any] = {}
    for name, value in getattr(sampler, "__dict__", {}).items():
        if name in _SHARED or isinstance(value, Dataset):
            continue
        if _is_plain(value):
            found[name] = copy.deepcopy(value)
        elif depth < _DEEPEST and not callable(value):
            found |= {f"{name}.{inner}": part for inner, part in snapshot(value, depth + 1).items()}
    return found


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), torch.Tensor, np.ndarray, np.generic)):
        return True
    if not isinstance(value, (list, tuple, set, frozenset, deque, Mapping)) or depth > _DEEPEST:
        return False
    items: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
    return len(value) <= _MOST_VALUES and all(_is_plain(item, depth + 1) for item in items)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of the attributes that differ between two snapshots."""
    return sorted(
        name
        for name in {**before, **after}
        if name not in before or name not in after or differ(before[name], after[name])
    )


def differ(one: Any, other: Any) -> bool:
    """Whether two plain values differ, which may hold tensors and arrays."""
    if type(one) is not type(other):
        return True
    if isinstance(one, torch.Tensor):
        return not torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return not np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() != other.keys() or any(differ(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return len(one) != len(other) or any(differ(*pair) for pair in zip(one, other, strict=True))
    return bool(one != other)
