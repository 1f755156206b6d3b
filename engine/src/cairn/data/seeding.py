"""Random numbers of samples: a function of (seed, epoch, index), whichever process loads the sample."""

import operator
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from cairn.data import only_reads
from cairn.data.generators import Generators
from cairn.data.only_reads import OnlyReads
from cairn.data.wrapped import Wrapped

Key: TypeAlias = tuple[int, Any]  # (epoch, index): what a keyed order yields

_MASK_64 = (1 << 64) - 1
_MASK_32 = (1 << 32) - 1


def mix_seed(*parts: int) -> int:
    """Hash integers into one 64-bit seed. The order matters: `mix_seed(0, 1)` and `mix_seed(1, 0)` are unrelated.

    The mixing step is SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014, with the constants of variant 13 of D. Stafford.

    Args:
        *parts: Integers, such as a seed, an epoch and an index.

    Returns:
        A number in [0, 2**64).
    """
    z = 0
    for part in parts:
        z = (z + part + 0x9E3779B97F4A7C15) & _MASK_64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
        z ^= z >> 31
    return z


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which the global generators of torch (CPU), numpy and Python start at `seed`.

    They are restored afterwards.
    """
    with _global_generators_kept():
        seed_global_generators(seed)
        yield


def isolated(items: Iterable[Any], seed: int) -> Iterator[Any]:
    """Iterate over items that draw from global generators seeded with `seed`, without affecting other code.

    Args:
        items: An iterable that draws random numbers.
        seed: Seed of the random numbers.

    Yields:
        The items. Between two of them, the global generators have the state that other code left them in.
    """
    with seeded(seed):
        iterator, own = iter(items), global_states()
    while True:
        with _global_generators_kept():
            _set_states(own)
            try:
                item = next(iterator)
            except StopIteration:
                return
            own = global_states()
        yield item


class SeededItems(Wrapped, Dataset[Any]):
    """Map-style dataset whose items draw the same random numbers in the main process and in any worker.

    Keys are pairs (epoch, index); a plain index counts as epoch 0. Before each item, these generators are seeded from
    (seed, epoch, index): the global ones of torch (CPU), numpy and Python, and those that the dataset itself owns, such
    as an attribute of one of its transforms. After each batch the global ones are restored, so loading does not affect
    the random numbers of the training.

    Cost, measured on one core: 11 us per item, 1 to 25 us more for each generator that the dataset owns, and 0.15 ms
    per batch for saving and restoring the three global states. Items are fetched one by one, because each needs its own
    seed. A dataset with `__getitems__` is asked for a whole batch, which is seeded by its first index and its size.
    Items that are only read from tensors or arrays draw nothing, and are not seeded; see only_reads.py.

    Args:
        dataset: Map-style.
        seed: Seed of the random numbers.
    """

    _OWN = frozenset({"wrapped", "_last", "_seed", "_generators", "_is_warm", "_only_reads", "_is_searched"})

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.wrapped = dataset
        self._seed = seed
        self._last: int | tuple[Key | Any, int] = 0
        """Seed of the last batch; or its first key and its size, from which `last_seed` computes it."""
        self._generators: Generators | None = None
        self._is_warm = False
        self._only_reads: OnlyReads | None = None
        self._is_searched = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_only_reads": None, "_is_searched": False}

    def __len__(self) -> int:
        return len(self.wrapped)

    def __getitem__(self, key: Key | Any) -> Any:
        with _global_generators_kept():
            self._last = self._seed_of(key)
            return self._item(key)

    def __getitems__(self, keys: Sequence[Key | Any]) -> Any:
        if not self._is_searched:
            self._only_reads, self._is_searched = only_reads.find(self.wrapped), True
        self._last = (keys[0], len(keys)) if keys else 0
        if self._only_reads is not None:
            # Short batches make this the largest cost of the loader: `_epoch_and_index`, without its calls.
            indices = [key[1] if isinstance(key, tuple) else key for key in keys]
            if self._only_reads.holds(indices):
                wrapped = self.wrapped
                return [wrapped[index] for index in indices]
        with _global_generators_kept():
            self._last = seed = self.last_seed  # now: the dataset may change the keys, which may be tensors
            if takes_batches(self.wrapped):
                indices = [_epoch_and_index(key)[1] for key in keys]
                return self._drawn(seed, self.wrapped.__getitems__, indices)
            return [self._item(key) for key in keys]

    @property
    def last_seed(self) -> int:
        """Seed of the last batch, for its collate function."""
        if isinstance(self._last, int):
            return self._last
        # A batch is identified by its first sample and its size: an epoch has each sample once, or nearly so.
        key, size = self._last
        return mix_seed(self._seed_of(key), size)

    def search_again(self) -> None:
        """Search for generators again when the next item is fetched: the dataset may have changed."""
        self._generators, self._is_warm, self._is_searched = None, False, False

    def _seed_of(self, key: Key | Any) -> int:
        epoch, index = _epoch_and_index(key)
        return (
            mix_seed(self._seed, epoch, index) if type(index) is int else mix_seed(self._seed, epoch, *_integers(index))
        )

    def _item(self, key: Key | Any) -> Any:
        if not self._is_warm:
            return self._drawn(self._seed_of(key), partial(operator.getitem, self.wrapped), _epoch_and_index(key)[1])
        self._seed_all(self._seed_of(key))
        return self.wrapped[_epoch_and_index(key)[1]]

    def _drawn(self, seed: int, fetch: Callable[[Any], Any], key: Any) -> Any:
        if self._generators is None:
            self._generators = Generators(dataset=self.wrapped)
        self._seed_all(seed)
        found = fetch(key)
        if not self._is_warm:
            self._is_warm = True
            # A dataset may create its generator when it is first read. Then read that sample again, with a seed.
            before, self._generators = len(self._generators), Generators(dataset=self.wrapped)
            if len(self._generators) > before:
                self._seed_all(seed)
                found = fetch(key)
        return found

    def _seed_all(self, seed: int) -> None:
        seed_global_generators(seed)
        if self._generators:
            self._generators.seed(seed)


class SeededCollate:
    """Collate function that draws the same random numbers in the main process and in any worker.

    Args:
        collate: Makes a batch of a list of samples.
        items: Where the samples come from; it knows the seed of the last batch.
    """

    def __init__(self, collate: Callable[[Any], Any], items: Any) -> None:
        self.collate = collate
        self.items = items
        self._generators: Generators | None = None

    def __call__(self, samples: Any) -> Any:
        if self._generators is None:
            self._generators = Generators(collate_fn=self.collate)
        with seeded(seed := mix_seed(self.items.last_seed)):
            self._generators.seed(seed)
            return self.collate(samples)


def takes_batches(dataset: Any) -> bool:
    """Whether a dataset fetches batches by a `__getitems__` of its own."""
    if isinstance(dataset, Subset):  # has the method in any case, and passes it on
        return takes_batches(dataset.dataset)
    return callable(getattr(dataset, "__getitems__", None))


def _epoch_and_index(key: Key | Any) -> tuple[int, Any]:
    # Lightning's `overfit_batches` replaces the sampler by one that yields plain indices.
    return key if isinstance(key, tuple) else (0, key)


def _integers(index: Any) -> tuple[int, ...]:
    """Return an index as integers that identify it: an index may be a number, a name, or a tuple or list of those."""
    if isinstance(index, (list, tuple)):
        return (len(index), *(number for part in index for number in _integers(part)))
    try:
        return (operator.index(index),)
    except (TypeError, ValueError, RuntimeError):
        return (zlib.crc32(repr(index).encode()),)


def seed_global_generators(seed: int) -> None:
    """Seed the global generators of torch (CPU), numpy and Python."""
    # `torch.manual_seed` would also seed the generators of accelerators, which training uses.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & _MASK_32)
    random.seed(seed)


def global_states() -> tuple[Any, Any, Any]:
    """Return the states of the global generators of torch (CPU), numpy and Python."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_states(states: tuple[Any, Any, Any]) -> None:
    of_torch, of_numpy, of_python = states
    torch.set_rng_state(of_torch)
    np.random.set_state(of_numpy)
    random.setstate(of_python)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    before = global_states()
    try:
        yield
    finally:
        _set_states(before)
