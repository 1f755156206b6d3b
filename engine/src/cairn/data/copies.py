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

from cairn.data import clock
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
_ORDER = "depends on which samples were read before it"


class _Ended(Exception):
    """The trial takes too long."""


OUTSIDE = "differs each time it is made"
"""What `changing_sample` returns ends with this if not the order of reading makes the difference, but a clock does."""


def changing_sample(dataset: Any, collate: Any, seed: int, lasting: bool) -> str:
    """Return what a sample depends on besides (seed, epoch, index), as a part of a sentence; '' if nothing is found.

    A copy reads two samples, of which another copy reads only the last. A cache of samples without random numbers, or a
    file that is opened late, makes no difference. Each copy has a clock of its own: a sample that holds the time of day
    differs even if two copies read the same.

    Args:
        dataset: Map-style.
        collate: Makes a batch of a list of samples; None: torch's default.
        seed: Seed of the random numbers.
        lasting: Whether the objects live longer than an epoch, so that they may keep what they drew in another one.
    """
    return _tried(lambda: _changing_sample(dataset, collate, seed, lasting), dataset, collate)


def _changing_sample(dataset: Any, collate: Any, seed: int, lasting: bool) -> str:
    # The copies end with this call, and with them the files that they have opened.
    watch, num = _Watch(), len(dataset)

    def read(*keys: tuple[int, int]) -> list[Any]:
        items = _keyed(dataset, seed)
        clock.put_forward(dataset)
        return [watch.timed(items, key) for key in keys]

    last, first, second = (0, num - 1), (0, 0), (0, min(1, num - 1))
    samples = read(last, first, second)[1:]
    if not same(samples, [*read(first), *read(second)]):
        is_outside = not same(samples, read(last, first, second)[1:])
        return f"a sample of {type(dataset).__name__} {OUTSIDE if is_outside else _ORDER}"
    if lasting and not same(read(last, first, second, (1, 0))[-1], read((1, 0))[0]):
        return f"a sample of {type(dataset).__name__} {_ORDER}"
    if collate is None:
        return ""

    def collated(*batches: list[Any]) -> Any:
        twin = SeededCollate(_copied(collate), _keyed(dataset, seed))
        clock.put_forward(collate)
        return [watch.checked(twin(copy.deepcopy(batch))) for batch in batches][-1]

    if not same(collated(samples, samples[::-1]), collated(samples[::-1])):
        is_outside = not same(collated(samples), collated(samples))
        return f"what the collate_fn returns {OUTSIDE if is_outside else 'depends on the batches before'}"
    return ""


def outside(what: str) -> str:
    """Return sentences about what ends with `OUTSIDE`."""
    return (
        f"{what[0].upper()}{what[1:]}, whatever was read before: it depends on a clock, or on random numbers that"
        f" nothing seeds (os.urandom, uuid4, secrets). A resumed run trains on other samples. Leave the time out of the"
        f" sample, or store it with the data; draw from torch, numpy or random, which are seeded for each sample."
    )


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
        states.append((snapshot(items.wrapped), snapshot(twin)))
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


def other_after_state(batches: StatefulBatches, num_before: int = 2) -> str:
    """Return why an iterable that is loaded with its state yields other batches than one that goes on.

    Args:
        batches: The batches of the iterable, each with the state after it.
        num_before: Number of batches before the state.

    Returns:
        `state`: its state is not complete; `OUTSIDE`: not even two copies that begin together yield the same; '':
        nothing is found.
    """
    return _tried(lambda: _other_after_state(batches, num_before), batches.wrapped)


def _other_after_state(batches: StatefulBatches, num_before: int) -> str:
    watch, turn = _Watch(), 0

    def read(start: tuple[int, Any], num: int) -> list[Any]:
        twin = _copied(batches)
        clock.put_forward(batches.wrapped)
        twin.begin(start, turn)
        return [watch.checked(pair) for pair in islice(iter(twin), num)]

    whole = read((0, None), 2 * num_before)
    if len(whole) <= num_before or any("fault" in state for _, state in whole):
        return ""  # a fault has a message of its own
    rest = read(batches.start_after(whole[:num_before]), len(whole) - num_before)
    if same([batch for batch, _ in whole[num_before:]], [batch for batch, _ in rest]):
        return ""
    again = read((0, None), 2 * num_before)
    return "state" if same([batch for batch, _ in whole], [batch for batch, _ in again]) else OUTSIDE


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
    if isinstance(one, (bool, int, str, bytes, np.generic, datetime.date, datetime.time)):
        return bool(one == other)
    return True
