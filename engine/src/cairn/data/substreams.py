"""Substreams: an iterable, divided so that an epoch has the same batches on any number of processes and workers.

    substream s        dataset.shard(S, s), for S = (batches in a global batch) x (workers when the run began)
    batch b            the next one of substream b mod S, for b = 0, 1, 2, ... of all processes together
    global batch       the next V batches
    process r of P     batches r, r + P, r + 2 P, ...: V / P of each global batch
    worker w of W      every W-th batch of its process: torch asks the workers in turn

    V = 4, S = 8 on 2 processes with 2 workers each

    batch              0   1   2   3 | 4   5   6   7 | 8   9  10  11
    substream          0   1   2   3   4   5   6   7   0   1   2   3
    process.worker    0.0 1.0 0.1 1.1 0.0 1.0 0.1 1.1 0.0 1.0 0.1 1.1

Where a substream is, only the worker knows that reads it: so each of them stays in one worker. The batches of a process
come from S / P substreams in turn, so the number of workers must divide S / P.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from cairn.errors import DataError


@dataclass(frozen=True)
class Division:
    """How the substreams of an iterable are divided among processes and workers.

    Args:
        num_batches: Batches in a global batch, of all processes together.
        num_substreams: Number of substreams: a multiple of it.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        DataError: The batches of a global batch cannot be divided equally among the processes.
    """

    num_batches: int
    num_substreams: int
    rank: int
    world_size: int
    has_virtual_ranks: bool = False
    """Whether a process has batches of a global batch that follow each other."""

    def __post_init__(self) -> None:
        if self.num_batches % self.world_size:
            raise DataError(
                f"{self.world_size} processes cannot share a global batch of {self.num_batches} batches equally: use"
                f" one of {_divisors(self.num_batches)} processes, or start a new run with another global_batch_size.",
                parameter="global_batch_size",
            )

    @property
    def per_window(self) -> int:
        """Batches of this process in a global batch."""
        return self.num_batches // self.world_size

    @property
    def own(self) -> list[int]:
        """The substreams of this process, in the order of its batches."""
        return [self.substream(batch) for batch in range(self.num_substreams // self.world_size)]

    def with_few(self) -> Division:
        """Return a division among as many processes as possible that leaves each of them several substreams."""
        number, most = self.num_batches, self.num_substreams // 2
        many = next((many for many in range(min(number, most), 0, -1) if number % many == 0), 1)
        return Division(number, self.num_substreams, 0, many, self.has_virtual_ranks)

    def substream(self, batch: int) -> int:
        """Return the substream that a batch of this process comes from."""
        number = batch * self.world_size + self.rank
        if self.has_virtual_ranks:
            window, place = divmod(batch, self.per_window)
            number = window * self.num_batches + self.rank * self.per_window + place
        return number % self.num_substreams

    def num_before(self, substream: int, window: int) -> int:
        """Return the number of batches of a substream before a global batch."""
        return -(-(window * self.num_batches - substream) // self.num_substreams)

    def check_workers(self, num_workers: int) -> None:
        """Check that each substream stays in one worker.

        Raises:
            DataError: It does not, with this number of workers.
        """
        number = self.num_substreams // self.world_size
        if num_workers and number % num_workers:
            raise DataError(
                f"num_workers={num_workers} cannot share the {number} substreams that this process reads (of"
                f" {self.num_substreams}, a number that a run keeps): use one of 0, {_divisors(number)} workers, or"
                f" start a new run.",
                parameter="num_workers",
            )


def _divisors(number: int, most: int = 8) -> str:
    found = [one for one in range(1, number + 1) if number % one == 0]
    return ", ".join(map(str, found[:most])) + (", ..." if len(found) > most else "")


@dataclass(frozen=True)
class StreamedBatches:
    """The global batches of an iterable, whose number is not known, and what one process loads of them.

    All of them are complete, so that each batch has the same weight.

    Args:
        size: Samples in a global batch.
        division: How its batches are divided.
    """

    size: int
    division: Division
    number: int = sys.maxsize
    """Unknown, and without a limit."""

    @property
    def per_window(self) -> int:
        """Batches of this process in a global batch."""
        return self.division.per_window

    @property
    def is_even(self) -> bool:
        """Whether all batches of a global batch have the same size: always, as it is complete."""
        return True

    def size_of(self, window: int) -> int:
        """Return the number of samples in one of them, on all processes."""
        return self.size

    def weight(self, batch: int) -> float:
        """Return the weight of a batch of this process in the mean over its global batch."""
        return 1.0

    def batches_in(self, number: int) -> int:
        """Return the number of batches of this process in the first global batches of an epoch."""
        return number * self.per_window

    def check_even(self) -> None:
        """Do nothing: each has as many batches of this process."""

    def __str__(self) -> str:
        """Return how one is shared, as a part of a sentence."""
        count, many = self.per_window, self.division.world_size
        own = f"{count} batch{'es' if count > 1 else ''} of {self.size // self.division.num_batches}"
        return own if many == 1 else f"{many} processes x {own}"


def num_batches(dataset: Any, batch_size: int | None, global_batch_size: Any) -> int:
    """Return the number of batches in a global batch of an iterable.

    Raises:
        DataError: It is not a whole number, or the iterable cannot be divided.
    """
    why = ""
    if not isinstance(global_batch_size, int) or global_batch_size < 1:
        why = f"global_batch_size={global_batch_size!r} must be an integer from 1"
    elif batch_size is None:
        why = "global_batch_size needs a batch_size, and the items of this dataset are batches"
    elif not can_divide(dataset):
        why = (
            f"global_batch_size needs an iterable that can be divided and resumed, and {type(dataset).__name__} has no"
            f" {', '.join(f'{name}()' for name in _METHODS if not callable(getattr(dataset, name, None)))}: give it"
            f" shard(num_shards, index), state_dict() and load_state_dict(state), or use a map-style dataset"
        )
    elif global_batch_size % batch_size:
        why = (
            f"global_batch_size={global_batch_size} must be a multiple of batch_size={batch_size} for an iterable:"
            f" its batches are the same on any number of processes"
        )
    if why:
        raise DataError(f"{why}.", parameter="global_batch_size")
    assert batch_size is not None
    return int(global_batch_size) // batch_size


_METHODS = ("shard", "state_dict", "load_state_dict")


def can_divide(dataset: Any) -> bool:
    """Whether an iterable has `shard()`, `state_dict()` and `load_state_dict()`."""
    return all(callable(getattr(dataset, name, None)) for name in _METHODS)
