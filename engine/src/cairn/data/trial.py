"""Trial of a sampler before training: is what it draws a function of (seed, epoch)?"""

from __future__ import annotations

import copy
import warnings
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
_LOST = "and no checkpoint holds it"


class Watch:
    """Warns of a sampler whose draws depend on something that no checkpoint holds.

    Args:
        sampler: Yields indices, or lists of indices.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler, self._name = sampler, type(sampler).__name__
        self._left: dict[str, Any] | None = None  # attributes after the last epoch was drawn
        self._last = (0, 0)  # that epoch, and its seed
        self._is_tried = False

    def try_twice(self, prepare: Callable[[Any], None], seed: int) -> None:
        """Draw an epoch twice with a copy of the sampler, before training, and compare.

        A sampler that is a function of (seed, epoch) draws the same twice, and is afterwards in the same state twice.

        Args:
            prepare: Called with the sampler before each of the draws.
            seed: Seed of the global generators.
        """
        self._is_tried = True
        try:
            twin = _copied(self._sampler)
        except Exception as error:  # whatever the user's class raises
            self._warn(
                f"{self._name} cannot be copied and so cannot be checked ({type(error).__name__}: {error})", "may"
            )
            return
        draws, states = [], []
        for _ in range(2):
            prepare(twin)
            with seeded(seed):
                draws.append([_plain(item) for item in islice(iter(twin), _MOST_ITEMS)])
            states.append(snapshot(twin))
        if changed := changes(*states):
            self._warn(f"{self._name}.{changed[0]} changes each time {self._name} is iterated, {_LOST}")
        elif draws[0] != draws[1]:
            self._warn(f"{self._name} draws other samples each time it is iterated, and not from a seeded generator")

    def before_an_epoch(self, prepare: Callable[[Any, int, int], None]) -> None:
        """Warn if something else has changed the sampler since it was last iterated.

        Args:
            prepare: Called with the sampler, an epoch and a seed before that epoch is drawn.
        """
        if self._left is None or not changes(self._left, snapshot(self._sampler)):
            return
        prepare(self._sampler, *self._last)  # Lightning may have set the next epoch already
        if changed := changes(self._left, snapshot(self._sampler)):
            self._warn(
                f"{self._name}.{changed[0]} was changed after the last epoch was drawn, {_LOST}",
                "would, unless a hook sets it from the epoch alone,",
            )

    def after_an_epoch(self, before: Mapping[str, Any], epoch: int, seed: int) -> None:
        """Warn if iterating has changed the sampler, unless that was tried before.

        Args:
            before: The numbers of the sampler before it was iterated.
            epoch: The epoch that was drawn.
            seed: Its seed.
        """
        now = numbers(self._sampler)
        changed = sorted(name for name in now if name in before and now[name] != before[name])
        if changed and not self._is_tried:
            self._warn(f"{self._name}.{changed[0]} changes while {self._name} is iterated, {_LOST}")
        self._left, self._last = snapshot(self._sampler), (epoch, seed)

    def _warn(self, what: str, would: str = "would") -> None:
        warnings.warn(
            f"{what}: a resumed run {would} draw other samples. Give {self._name} the methods state_dict and"
            f" load_state_dict, or set_epoch.",
            stacklevel=2,
        )


def is_constant(sampler: Any) -> bool:
    """Whether a sampler draws the same in each epoch, whatever the state of the generators is; False if unknown.

    Args:
        sampler: Yields indices, or lists of indices.
    """
    try:
        twin, draws = _copied(sampler), []
        for seed in range(2):
            with seeded(seed):
                draws.append([_plain(item) for item in islice(iter(twin), _MOST_ITEMS)])
        return draws[0] == draws[1]
    except Exception:  # whatever the user's class raises
        return False


def numbers(sampler: Any) -> dict[str, Any]:
    """Return the attributes of a sampler that are numbers or strings."""
    return {
        name: value
        for name, value in getattr(sampler, "__dict__", {}).items()
        if isinstance(value, bool | int | float | str)
    }


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
