"""Order of samples: a function of (seed, epoch), in which a number of items is a position."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from cairn.data import parallel, shuffles
from cairn.data.record import Record
from cairn.data.windows import Dealing, Share, Windows

_CHUNK = 1 << 12
"""Indices computed at a time: enough to make each of them cheap, and few enough to start anywhere within 1 ms."""


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

    Args:
        dealing: How global batches are dealt out, whose batches are then the items, as lists; None: the items are
            indices, and each process gets every `world_size`-th.
    """

    def __init__(self, dealing: Dealing | None = None) -> None:
        self.dealing = dealing
        self.keyed = False
        """Whether indices are pairs (epoch, index), the keys of `SeededItems`."""
        # Do not call DistributedSampler.__init__: it needs the process group, which may not exist yet.
        self.epoch = self.cycle = self.start = 0
        self.exhausted = False
        """Whether the last iterator has reached its end; set by the loader."""
        self._pinned: Record | None = None
        self._latest: Record | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iterator. A different epoch starts at its beginning.

        Lightning creates the first iterator of a resumed run *before* it calls this with the same epoch, which then
        changes nothing.
        """
        if epoch != self.epoch or self.exhausted:
            self.seek(epoch, 0)
            if self._latest is not None and not self._latest.is_started:
                # Lightning resumes its own checkpoints with an iterator that it has created before.
                self._latest.move(self.next_record())

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

    @property
    def turn(self) -> int:
        """A number that identifies epoch and cycle of the iterator that is created now."""
        return (self._pinned or self.next_record()).turn

    @staticmethod
    def processes() -> tuple[int, int]:
        """Return the number by which this process gets its items, and how many there are: those of processes."""
        return parallel.share(*rank_and_world_size())

    @property
    def share(self) -> Share:
        """The share of this process in each global batch.

        Raises:
            DataError: Global batches cannot be divided equally among the processes.
        """
        assert self.dealing is not None
        return self.dealing.share(*self.processes())

    def windows_of(self, record: Record) -> Windows:
        """Return the global batches of an iteration that has begun, or will."""
        assert self.dealing is not None
        return self.dealing.windows(self._total(record))

    def _num_dealt(self, num_samples: int) -> int:
        """Return the number of batches of this process in an epoch with this many samples."""
        assert self.dealing is not None
        windows = self.dealing.windows(num_samples)
        return self.share.num_batches(windows, windows.number)

    def _total(self, record: Record) -> int:
        """Return the number of items of all processes in an epoch."""
        raise NotImplementedError

    @contextmanager
    def pinned(self) -> Iterator[Record]:
        """Context in which all iterators are the same one for a checkpoint, and after which the start is used up.

        torch creates two iterators when it starts workers, and uses the second.
        """
        self._pinned = self._latest = self.next_record()
        try:
            yield self._pinned
        finally:
            self._pinned = None
            self.use_up()

    def use_up(self) -> None:
        """Make the next iterator start at the beginning."""
        self.start = 0

    def next_record(self) -> Record:
        """Return the record of an iterator that is created now."""
        return Record(self.epoch, self.cycle, self.start, self._size_now())

    def _size_now(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[Any]:
        return self._begin(self._pinned or self.next_record())

    def _begin(self, record: Record) -> Iterator[Any]:
        if record is not self._latest:
            self.start = 0  # used up at the first item
        record.is_started = True
        yield from self._items(record)

    def _items(self, record: Record) -> Iterator[Any]:
        """Return the items from a start on, and keep in `record` what a checkpoint needs."""
        raise NotImplementedError


class NoOrder(Order):
    """Placeholder for the sampler that an iterable dataset does not have: it keeps the epoch."""

    def _items(self, record: Record) -> Iterator[Any]:
        return repeat(None)


class EpochSampler(Order):
    """Indices of one rank, in an order that depends only on (seed, epoch).

    Every rank gets ceil(num_samples / world_size) indices. If that is more than there are, the first indices are
    repeated, as in torch's DistributedSampler. The global generators are not used. The indices are computed when they
    are needed: an epoch of any size starts at once, at any position, and takes no memory.

    Args:
        num_samples: Size of the dataset; or the dataset itself, whose size is read when an iterator is created.
        seed: Seed of the shuffling.
        shuffle: Whether to shuffle; without it, the order is 0, 1, 2, ...
        rank: Rank of this process, which gets every `world_size`-th index; None: as in `torch.distributed` when an
            iterator is created.
        world_size: Number of processes; None: as in `torch.distributed`.
        keyed: Yield pairs (epoch, index), the keys of `SeededItems`, instead of plain indices.
        dealing: See `Order`.

    Raises:
        ValueError: `rank` is not in [0, world_size).
    """

    def __init__(
        self,
        num_samples: int | Sized,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        keyed: bool = False,
        dealing: Dealing | None = None,
    ) -> None:
        super().__init__(dealing)
        if rank is not None and not 0 <= rank < (world_size or 0):
            raise ValueError(f"rank={rank} must be in [0, world_size), and world_size is {world_size}.")
        self._size = num_samples
        self._saved_size: int | None = None
        self.seed = seed
        self.shuffle = shuffle
        self.keyed = keyed
        self._rank, self._world_size = rank, world_size
        self._way: str | None = None  # of shuffling; None: as the run of this process

    def identity(self) -> dict[str, Any]:
        return {"order": (self._way or shuffles.of_run()) if self.shuffle else "sequential"}

    def keep_way(self, order: Any) -> None:
        """Shuffle as a checkpoint names it, if it names a way of shuffling.

        Args:
            order: What `identity` returned when the checkpoint was saved; a damaged one may hold anything.
        """
        if isinstance(order, str) and order in shuffles.WAYS:
            self._way = order if order != shuffles.of_run() else None

    @property
    def num_samples(self) -> int:  # type: ignore[override]  # an attribute of torch's class, which sets it only once
        """Size of the dataset; right after a resume, its size when the epoch began."""
        if self._saved_size is not None:
            return self._saved_size
        return self.size_now

    @property
    def size_now(self) -> int:
        """Size of the dataset."""
        return self._size if isinstance(self._size, int) else len(self._size)

    def restore_size(self, num_samples: int | None) -> None:
        """Order the next epoch as if the dataset had this size, which it had when the epoch began; None: as it has."""
        self._saved_size = num_samples

    def __len__(self) -> int:
        """Number of items of this rank in a whole epoch, even after `seek`: Lightning subtracts what was done."""
        if self.dealing is not None:
            return self._num_dealt(self.num_samples)
        return -(-self.num_samples // self._share()[1])

    def _share(self) -> tuple[int, int]:
        if self._rank is None or self._world_size is None:
            return self.processes()
        return self._rank, self._world_size

    def _size_now(self) -> int | None:
        return self.num_samples

    def _total(self, record: Record) -> int:
        return self.num_samples if record.num_samples is None else record.num_samples

    def _items(self, record: Record) -> Iterator[Any]:
        turn, num_samples = record.turn, self._total(record)
        at = shuffles.WAYS[self._way or shuffles.of_run()](num_samples, self.seed, turn) if self.shuffle else None
        if self.dealing is not None:
            return self._batches(record, at)
        indices = self._indices(at, record.start, num_samples)
        return zip(repeat(turn), indices, strict=False) if self.keyed else indices

    def _batches(self, record: Record, at: shuffles.At | None) -> Iterator[list[Any]]:
        turn = record.turn
        for places in self.share.batches(self.windows_of(record), record.start):
            indices = (places if at is None else at(places)).tolist()
            yield [(turn, index) for index in indices] if self.keyed else indices

    def _indices(self, at: shuffles.At | None, start: int, num_samples: int) -> Iterator[int]:
        rank, world_size = self._share()
        length = -(-num_samples // world_size)
        for first in range(start, length, _CHUNK):
            own = np.arange(first, min(first + _CHUNK, length), dtype=np.int64)
            positions = (own * world_size + rank) % num_samples
            yield from (positions if at is None else at(positions)).tolist()
