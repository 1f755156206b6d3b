"""Trials of a dataset before training, with copies of it: is a sample a function of its index, is a state complete?"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import numpy as np
import torch

from cairn.data.generators import Generators, is_of_training, reachable
from cairn.data.iterable import StatefulBatches
from cairn.data.seeding import SeededCollate, SeededItems, global_states, seeded, takes_batches
from cairn.data.trial import changes, snapshot

_MOST_BYTES, _MOST_OBJECTS = 1 << 27, 200_000
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
    with suppress(Exception), _undisturbed(dataset, collate):  # whatever the user's class raises
        return _changing_sample(dataset, collate, seed, lasting)
    return ""


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
    with suppress(Exception), _undisturbed(dataset, collate):
        return _moving_attribute(dataset, collate, seed)
    return ""


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
    with suppress(Exception), _undisturbed(dataset, collate):
        watch, items, twin, num = _Watch(), _copied(dataset), _copied(collate), len(dataset)
        before = global_states()
        samples = [watch.timed(items.__getitem__, index) for index in range(0, num, max(1, num // _NUM_READ))]
        twin(samples)
        return same(before, global_states())
    return False


def is_state_incomplete(batches: StatefulBatches, num_before: int = 2) -> bool:
    """Whether an iterable that is loaded with its state yields other batches than one that goes on.

    Args:
        batches: The batches of the iterable, each with the state after it.
        num_before: Number of batches before the state.
    """
    with suppress(Exception), _undisturbed(batches.dataset):
        return _is_state_incomplete(batches, num_before)
    return False


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
    if not _is_small(item):
        raise TypeError("too large to copy")
    return copy.deepcopy(item)


def _is_small(root: Any) -> bool:
    """Whether a copy is small and quick, and does not include the trainer or the model."""
    waiting, seen, num_bytes = [root], set(), 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if is_of_training(item):
            return False
        if isinstance(item, (torch.Tensor, np.ndarray)):
            num_bytes += item.nbytes
        elif isinstance(item, (str, bytes, bytearray)):
            num_bytes += len(item)
        elif isinstance(item, Mapping):
            waiting += list(islice(item.values(), _MOST_OBJECTS))
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += list(islice(item, _MOST_OBJECTS))
        else:
            waiting += list(getattr(item, "__dict__", {}).values())
        if num_bytes > _MOST_BYTES or len(seen) + len(waiting) > _MOST_OBJECTS:
            return False
    return True


@contextmanager
def _undisturbed(*roots: Any) -> Iterator[None]:
    """Context after which generators, and numbers in the user's classes, are what they were: copies share them."""
    named = {str(number): root for number, root in enumerate(roots)}
    generators = Generators(**named)
    states = generators.states()
    kinds = [item for _, item in reachable(named) if isinstance(item, type)]
    numbers = [(kind, name, value) for kind in kinds for name, value in vars(kind).items() if _is_number(value)]
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            generators.set_states(states)
            for kind, name, value in numbers:
                if vars(kind).get(name) != value:
                    setattr(kind, name, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


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
