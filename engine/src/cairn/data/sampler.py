"""Order of samples: a function of (seed, epoch), in which a number of items is a position."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from cairn.data.seeding import isolated, mix_seed, seeded

_CHUNK = 1 << 16
"""Indices converted to Python integers at a time: those of a whole epoch could take gigabytes."""


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) outside of `torch.distributed`."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class Order(DistributedSampler[Any]):
    """Base class of the samplers of `cairn.DataLoader`: an epoch, and the position at which the next iterator starts.

    A loader that is iterated again within an epoch starts its next cycle, in another order. This happens in a
    `CombinedLoader`, which repeats a short loader, and in your own loop, which may have no epochs.

    It inherits from `DistributedSampler` only so that Lightning keeps it: Lightning replaces any other sampler by one
    that divides the samples among the processes, and this one divides them itself.
    """

    def __init__(self) -> None:
        # Do not call DistributedSampler.__init__: it needs the process group, which may not exist yet.
        self.epoch = self.cycle = self.start = 0
        self.exhausted = False
        """Whether the last iterator has reached its end; set by the loader."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iterator. A different epoch starts at its beginning.

        Lightning creates the first iterator of a resumed run *before* it calls this with the same epoch, which then
        changes nothing.
        """
        if epoch != self.epoch or self.exhausted:
            self.seek(epoch, 0)

    def seek(self, epoch: int, start: int, cycle: int = 0) -> None:
        """Make the next iterator, and only that one, start at a position.

        Args:
            epoch: The epoch.
            start: Number of items of this rank to skip.
            cycle: How often the items of this epoch were iterated before.

        Raises:
            ValueError: `start` is negative.
        """
        if start < 0:
            raise ValueError(f"start={start} must not be negative.")
        self.epoch, self.start, self.cycle, self.exhausted = epoch, start, cycle, False

    def next_cycle(self) -> None:
        """Start the next cycle if the last iterator has reached its end. Called before an iterator is created."""
        if self.exhausted:
            self.seek(self.epoch, 0, self.cycle + 1)

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a checkpoint and its resume."""
        return {}

    def __iter__(self) -> Iterator[Any]:
        # Epoch and start are read when the iterator is created, but `start` is reset only when it is first used: torch
        # creates two iterators when it starts workers, and uses the second.
        return self._begin(self.epoch + (self.cycle << 32), self.start)

    def _begin(self, turn: int, start: int) -> Iterator[Any]:
        self.start = 0
        yield from self._items(turn, start)

    def _items(self, turn: int, start: int) -> Iterator[Any]:
        """Return the items from `start` on; `turn` is a number that identifies epoch and cycle."""
        raise NotImplementedError


class NoOrder(Order):
    """Placeholder for the sampler that an iterable dataset does not have: it keeps the epoch."""

    def _items(self, turn: int, start: int) -> Iterator[Any]:
        return repeat(None)


class EpochSampler(Order):
    """Indices of one rank, in an order that depends only on (seed, epoch).

    Every rank gets ceil(num_samples / world_size) indices. If that is more than there are, the first indices are
    repeated, as in torch's DistributedSampler. The global generators are not used. With 100 million shuffled samples,
    an epoch starts after 4 s and takes 0.4 GB; without shuffling, it starts at once.

    Args:
        num_samples: Size of the dataset.
        seed: Seed of the shuffling.
        shuffle: Whether to shuffle; without it, the order is 0, 1, 2, ...
        rank: Rank of this process, which gets every `world_size`-th index; None: as in `torch.distributed` when an
            iterator is created.
        world_size: Number of processes; None: as in `torch.distributed`.
        keyed: Yield pairs (epoch, index), the keys of `SeededItems`, instead of plain indices.

    Raises:
        ValueError: `rank` is not in [0, world_size).
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        keyed: bool = False,
    ) -> None:
        super().__init__()
        if rank is not None and not 0 <= rank < (world_size or 0):
            raise ValueError(f"rank={rank} must be in [0, world_size), and world_size is {world_size}.")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self.keyed = keyed
        self._rank, self._world_size = rank, world_size

    def identity(self) -> dict[str, Any]:
        return {"order": "shuffled" if self.shuffle else "sequential"}

    def __len__(self) -> int:
        """Number of samples of this rank in a whole epoch, even after `seek`: Lightning subtracts what was done."""
        return -(-self.num_samples // self._share()[1])

    def _share(self) -> tuple[int, int]:
        if self._rank is None or self._world_size is None:
            return rank_and_world_size()
        return self._rank, self._world_size

    def _items(self, turn: int, start: int) -> Iterator[Any]:
        indices = self._indices(turn, start)
        return ((turn, index) for index in indices) if self.keyed else indices

    def _indices(self, turn: int, start: int) -> Iterator[int]:
        rank, world_size = self._share()
        order = self._order(turn) if self.shuffle else None
        for first in range(start, len(self), _CHUNK):
            own = torch.arange(first, min(first + _CHUNK, len(self)))
            positions = (own * world_size + rank) % self.num_samples
            yield from (positions if order is None else order[positions]).tolist()

    def _order(self, turn: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, turn))
        dtype = torch.int32 if self.num_samples < 2**31 else torch.int64
        return torch.randperm(self.num_samples, generator=generator, dtype=dtype)


class SeededOrder(Order):
    """Items of a given sampler or batch sampler, made a function of (seed, epoch).

    The sampler draws from generators that are seeded with (seed, epoch): the global ones, which are restored
    afterwards, and its own `generator`, if it has one. Its `set_epoch` is called, if it has one. If it has `state_dict`
    and `load_state_dict`, its state at the beginning of the epoch is saved, and a resume draws that epoch again.

    With several processes, each gets every `world_size`-th item. If the number of items is not divisible, the first
    ones are repeated. A `DistributedSampler` divides the items itself.

    Args:
        sampler: Yields indices, or lists of indices.
        seed: Seed of the random numbers that it draws.
        keyed: Yield pairs (epoch, index), the keys of `SeededItems`, instead of indices.
    """

    def __init__(self, sampler: Any, *, seed: int = 0, keyed: bool = False) -> None:
        super().__init__()
        self.sampler = sampler
        self.seed = seed
        self.keyed = keyed
        self.state: dict[str, Any] | None = None
        """State of the sampler at the beginning of the epoch; None if it has no state."""
        self._pending: dict[str, Any] | None = None

    def identity(self) -> dict[str, Any]:
        return {"order": type(self.sampler).__name__}

    def __len__(self) -> int:
        """Number of items of this rank in a whole epoch; raises TypeError if the sampler has no length."""
        return -(-len(self.sampler) // self._share()[1])

    def __getattr__(self, name: str) -> Any:
        # torch and Lightning read `batch_size` and `drop_last` of a batch sampler.
        if name == "sampler" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sampler, name)

    @property
    def is_stateful(self) -> bool:
        """Whether the sampler has `state_dict()` and `load_state_dict()`."""
        return all(callable(getattr(self.sampler, name, None)) for name in ("state_dict", "load_state_dict"))

    def load_state(self, state: dict[str, Any]) -> None:
        """Make the sampler draw the next epoch from the state that it had at the beginning of that epoch."""
        self.state = self._pending = state

    def _share(self) -> tuple[int, int]:
        divides_itself = isinstance(self.sampler, DistributedSampler) or isinstance(
            getattr(self.sampler, "sampler", None), DistributedSampler
        )
        return (0, 1) if divides_itself else rank_and_world_size()

    def _items(self, turn: int, start: int) -> Iterator[Any]:
        rank, world_size = self._share()
        for number, item in enumerate(self._drawn(turn)):
            if number % world_size == rank and number // world_size >= start:
                yield self._key(turn, item)

    def _drawn(self, turn: int) -> Iterator[Any]:
        """Yield all items of an epoch; the first ones again until each process gets the same number."""
        seed = mix_seed(self.seed, turn)
        self._prepare(seed)
        if not hasattr(self.sampler, "__len__"):
            yield from isolated(self.sampler, seed)  # one at a time, because it may be endless
            return
        before = _plain_attributes(self.sampler)
        with seeded(seed):
            items = list(self.sampler)
        if not self.is_stateful:
            self._warn_of_changes(before)
        yield from items
        missing = -len(items) % self._share()[1]
        yield from (items[number % len(items)] for number in range(missing))

    def _warn_of_changes(self, before: dict[str, Any]) -> None:
        now = _plain_attributes(self.sampler)
        if changed := sorted(name for name in now if name in before and now[name] != before[name]):
            name = type(self.sampler).__name__
            warnings.warn(
                f"{name}.{changed[0]} changes while {name} is iterated, and no checkpoint holds it: a resumed run would"
                f" draw other samples. Give {name} the methods state_dict and load_state_dict, or set_epoch.",
                stacklevel=2,
            )

    def _prepare(self, seed: int) -> None:
        for sampler in (self.sampler, getattr(self.sampler, "sampler", None)):
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(self.epoch)
            if isinstance(generator := getattr(sampler, "generator", None), torch.Generator):
                generator.manual_seed(seed)
        if self.is_stateful:
            if self._pending is not None:
                self.sampler.load_state_dict(self._pending)
            self.state, self._pending = copy.deepcopy(self.sampler.state_dict()), None

    def _key(self, turn: int, item: Any) -> Any:
        if not self.keyed:
            return item
        return [(turn, index) for index in item] if isinstance(item, (list, tuple)) else (turn, item)


def _plain_attributes(sampler: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in getattr(sampler, "__dict__", {}).items()
        if isinstance(value, bool | int | float | str)
    }
