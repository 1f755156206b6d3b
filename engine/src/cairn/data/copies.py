"""Trials of a dataset before training, with copies of it: is a sample a function of its index, is a state complete?"""

from __future__ import annotations

import copy
import datetime
import enum
import functools
import itertools
import math
import random
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from cairn.data.forked import forked
from cairn.data.generators import is_of_training, slots_of
from cairn.data.iterable import StatefulBatches
from cairn.data.seeding import SeededCollate, SeededItems, global_states, takes_batches
from cairn.data.trial import changes, snapshot

_ATOMS = (
    *(int, float, complex, type(None), type, range, slice, enum.Enum, PurePath, re.Pattern, datetime.date, np.generic),
    *(FunctionType, BuiltinFunctionType, ModuleType, torch.dtype, torch.device, torch.Generator),
    *(np.dtype, np.random.Generator, np.random.RandomState, random.Random, datetime.timedelta),
)
"""What counts as nothing in a copy."""
_ITERATORS: tuple[Any, ...] = (
    *(type(iter(())), type(iter([])), type(iter(range(0))), type(iter(range(1 << 70))), type(iter("")), type(iter({}))),
    *(map, filter, zip, enumerate, reversed, itertools.chain, itertools.count, itertools.cycle, itertools.islice),
)
_MOST_BYTES, _MOST_OBJECTS = 1 << 25, 200_000
"""Limits of what is copied: larger data is not tried."""
_NUM_READ = 64
"""Samples that are read to see whether they draw."""
_LIMIT_S = 2.0
"""A trial ends when it has taken this long."""


class _Ended(Exception):
    """The trial takes too long."""


def changing_sample(dataset: Any, collate: Any, seed: int, lasting: bool) -> str:
    """Return what a sample depends on besides (seed, epoch, index), as a part of a sentence; '' if nothing is found.

    A copy reads two samples, of which another copy reads only the last. A cache of samples without random numbers, or a
    file that is opened late, makes no difference.

    Args:
        dataset: Map-style.
        collate: Makes a batch of a list of samples; None: torch's default.
        seed: Seed of the random numbers.
        lasting: Whether the objects live longer than an epoch, so that they may keep what they drew in another one.
    """
    return _tried(lambda: _changing_sample(dataset, collate, seed, lasting), dataset, collate)


def _changing_sample(dataset: Any, collate: Any, seed: int, lasting: bool) -> str:
    # The copies end with this call, and with them the files that they have opened.
    watch, one, other, num = _Watch(), _keyed(dataset, seed), _keyed(dataset, seed), len(dataset)
    first, second = (0, min(1, num - 1)), (0, 0)
    watch.timed(one, (0, num - 1))
    samples = [watch.timed(one, key) for key in (first, second)]
    alone = [watch.timed(other, first), watch.timed(_keyed(dataset, seed), second)]
    is_equal = same(samples, alone)
    if is_equal and lasting:
        is_equal = same(watch.timed(one, (1, 0)), watch.timed(_keyed(dataset, seed), (1, 0)))
    if not is_equal:
        return f"a sample of {type(dataset).__name__} depends on which samples were read before it"
    if collate is None:
        return ""
    used, fresh = SeededCollate(_copied(collate), one), SeededCollate(_copied(collate), one)
    watch.timed(used, copy.deepcopy(samples))
    samples.reverse()
    if not same(used(copy.deepcopy(samples)), fresh(copy.deepcopy(samples))):
        return "what the collate_fn returns depends on the batches before"
    return ""


def moving_attribute(dataset: Any, collate: Any, seed: int) -> str:
    """Return the name of an attribute that changes whenever the same sample is read; '' if none is found.

    Args:
        dataset: Map-style.
        collate: Makes a batch of a list of samples; None: torch's default.
        seed: Seed of the random numbers.
    """
    return _tried(lambda: _moving_attribute(dataset, collate, seed), dataset, collate)


def _moving_attribute(dataset: Any, collate: Any, seed: int) -> str:
    watch, items, twin = _Watch(), _keyed(dataset, seed), _copied(collate)
    states = []
    for _ in range(3):
        sample = watch.timed(items, (0, 0))
        if twin is not None:
            SeededCollate(twin, items)([sample])
        states.append((snapshot(items.dataset), snapshot(twin)))
    for place, owner in enumerate((dataset, collate)):
        moved = set(changes(states[0][place], states[1][place])) & set(changes(states[1][place], states[2][place]))
        if moved:
            return f"{type(owner).__name__}.{min(moved)}"
    return ""


def draws_nothing(dataset: Any, collate: Any) -> bool:
    """Whether samples from all over a dataset draw no random numbers; False if this is not known.

    Args:
        dataset: Map-style.
        collate: Makes a batch of a list of samples.
    """
    return bool(_tried(lambda: "yes" if _draws_nothing(dataset, collate) else "", dataset, collate))


def _draws_nothing(dataset: Any, collate: Any) -> bool:
    watch, items, twin, num = _Watch(), _copied(dataset), _copied(collate), len(dataset)
    before = global_states()
    samples = [watch.timed(items.__getitem__, index) for index in range(0, num, max(1, num // _NUM_READ))]
    twin(samples)
    return same(before, global_states())


def is_state_incomplete(batches: StatefulBatches, num_before: int = 2) -> bool:
    """Whether an iterable that is loaded with its state yields other batches than one that goes on.

    Args:
        batches: The batches of the iterable, each with the state after it.
        num_before: Number of batches before the state.
    """
    return bool(_tried(lambda: "yes" if _is_state_incomplete(batches, num_before) else "", batches.dataset))


def _is_state_incomplete(batches: StatefulBatches, num_before: int) -> bool:
    watch, turn = _Watch(), 0
    one, other = _copied(batches), _copied(batches)
    one.begin((0, None), turn)
    read = [watch.checked(pair) for pair in islice(iter(one), 2 * num_before)]
    if len(read) <= num_before or any("fault" in state for _, state in read):
        return False  # a fault has a message of its own
    other.begin((num_before, read[num_before - 1][1]), turn)
    again = [watch.checked(pair) for pair in islice(iter(other), len(read) - num_before)]
    return not same([batch for batch, _ in read[num_before:]], [batch for batch, _ in again])


def _tried(trial: Callable[[], str], *roots: Any) -> str:
    try:
        if not all(map(_is_small, roots)):
            return ""
    except Exception:  # whatever an object of the user raises
        return ""
    return forked(trial, 2 * _LIMIT_S)


class _Watch:
    """Ends a trial that takes too long."""

    def __init__(self) -> None:
        self._end = time.monotonic() + _LIMIT_S

    def checked(self, value: Any) -> Any:
        if time.monotonic() > self._end:
            raise _Ended
        return value

    def timed(self, function: Any, argument: Any) -> Any:
        return self.checked(function[argument] if isinstance(function, SeededItems) else function(argument))


def _keyed(dataset: Any, seed: int) -> SeededItems:
    if takes_batches(dataset):
        raise TypeError("samples are read in batches only")
    return SeededItems(_copied(dataset), seed)


def _copied(item: Any) -> Any:
    return copy.deepcopy(item)


def _is_small(root: Any) -> bool:
    """Whether a copy is small and harmless: without the trainer or the model, and without what cannot be measured."""
    waiting, seen, num_bytes = [root], dict[int, Any](), 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        kind = type(item)
        # The end of a copy would release what the original owns: a file, a directory.
        if is_of_training(item) or hasattr(kind, "__del__"):
            return False
        if isinstance(item, (torch.Tensor, np.ndarray)):
            num_bytes += item.nbytes
            if isinstance(item, np.ndarray) and item.dtype.hasobject:
                waiting += item.ravel()[:_MOST_OBJECTS].tolist()
        elif isinstance(item, (str, bytes, bytearray)):
            num_bytes += len(item)
        elif not isinstance(item, _ATOMS):
            found = _contents(item)
            if found is None:
                return False
            waiting += found
        if num_bytes > _MOST_BYTES or len(seen) + len(waiting) > _MOST_OBJECTS:
            return False
    return True


def _contents(item: Any) -> list[Any] | None:
    """Return what an object consists of; None if this is not known, as for classes that are written in C."""
    if isinstance(item, dict):
        return [*islice(item, _MOST_OBJECTS), *islice(item.values(), _MOST_OBJECTS)]
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        return list(islice(item, _MOST_OBJECTS))
    if isinstance(item, MethodType):
        return [item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, item.args, item.keywords]
    if isinstance(item, _ITERATORS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns for those of itertools
            return [item.__reduce__()]
    attributes = getattr(item, "__dict__", None)
    names = [name for kind in type(item).__mro__ for name in slots_of(kind)]
    if attributes is None and not names:
        return None
    return [*(attributes or {}).values(), *(getattr(item, name) for name in names if hasattr(item, name))]


def same(one: Any, other: Any) -> bool:
    """Whether two samples are equal, as far as this is known: objects of unknown classes count as equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, np.ndarray):
        if one.shape != other.shape or one.dtype != other.dtype or one.dtype.hasobject:
            return one.shape == other.shape and one.dtype == other.dtype
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, (float, np.floating)):
        return bool(one == other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (bool, int, str, bytes, np.generic)):
        return bool(one == other)
    return True
