"""Global batches: how the samples of an epoch are dealt out, the same on any number of processes.

    order of an epoch   s0 s1 s2 s3 ...                a function of (seed, epoch), see sampler.py
    window              the next G samples of it       one step of the optimizer, on all processes together
    batch               the next samples of a window   what one process loads at a time

    G = 12 on 2 processes that hold at most 3 samples at a time: 4 batches, 2 on each process, one after the other

    window 0    s0 s1 s2 | s3 s4 s5 | s6 s7 s8 | s9 s10 s11
    process     0          1          0          1

Another number of processes, or another batch size, deals the same windows out to fewer or more batches. In a run with
virtual ranks, the batches are fixed as well: a window has one for each of them, and processes 0, 0, 1, 1 load these; or
in turn, as above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from cairn.errors import DataError

Places = np.ndarray[tuple[int], np.dtype[np.int64]]
"""Places in the order of an epoch."""


@dataclass(frozen=True)
class Windows:
    """The windows of an epoch; they do not depend on processes.

    If the last window would have less than half of its samples, the last two are made equally large: there are enough
    for each process then.

    Args:
        num_samples: Samples of the epoch.
        size: Samples in a window: the global batch size.
        drop_last: Whether an incomplete last window is left out.
    """

    num_samples: int
    size: int
    drop_last: bool = False

    @property
    def number(self) -> int:
        """Number of windows."""
        return self.num_samples // self.size if self.drop_last else -(-self.num_samples // self.size)

    def bounds(self, window: int) -> tuple[int, int]:
        """Return the first place of a window, and the one after its last."""
        return self._start(window), self._start(window + 1)

    def _start(self, window: int) -> int:
        rest = self.num_samples % self.size
        if self.drop_last or window < self.number - 1 or not rest:
            return window * self.size
        if window >= self.number:
            return self.num_samples
        if window == 0 or 2 * rest >= self.size:
            return window * self.size
        return self.num_samples - (self.size + rest) // 2


@dataclass(frozen=True)
class Dealing:
    """How a loader deals out its samples.

    Args:
        size: Samples in a window: the global batch size.
        batch_size: The most samples that a process loads at a time.
        drop_last: Whether an incomplete last window is left out.
    """

    size: int
    batch_size: int
    drop_last: bool
    has_virtual_ranks: bool = False
    """Whether the batches of a window do not depend on the number of processes either."""
    in_turn: bool = False
    """Whether processes then load them in turn, rather than each of them those that follow each other."""

    def windows(self, num_samples: int) -> Windows:
        """Return the windows of an epoch with this many samples."""
        return Windows(num_samples, self.size, self.drop_last)

    def share(self, rank: int, world_size: int) -> Share:
        """Return the share of a process.

        Raises:
            DataError: The window cannot be divided equally among the processes.
        """
        return Share(self.size, self.batch_size, rank, world_size, self.has_virtual_ranks, self.in_turn)


@dataclass(frozen=True)
class Share:
    """What one process loads of each window.

    All batches of a complete window have the same size, so that the mean over their gradients is the mean over samples.

    Args:
        size: Samples in a window.
        batch_size: The most samples that a process loads at a time.
        rank: Number of the process.
        world_size: Number of processes.
        has_virtual_ranks: See `Dealing`.
        in_turn: See `Dealing`.

    Raises:
        DataError: The window cannot be divided equally among the processes.
    """

    size: int
    batch_size: int
    rank: int
    world_size: int
    has_virtual_ranks: bool = False
    in_turn: bool = False

    def __post_init__(self) -> None:
        if self.has_virtual_ranks and self.num_virtual_ranks < self.world_size:
            number = self.num_virtual_ranks
            parts = "one batch" if number == 1 else f"{number} batches"
            raise DataError(
                f"{self.world_size} processes are more than the {parts} of a global batch: use at most {number}, or"
                f" start a new run with a smaller batch_size.",
                parameter="batch_size",
            )
        if not self.has_virtual_ranks and self.size % self.world_size:
            numbers = [number for number in range(1, self.size + 1) if self.size % number == 0]
            at_most = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
            raise DataError(
                f"{self.world_size} processes cannot share a global batch of {self.size} samples equally: use one of"
                f" {at_most} processes, or start a new run with another global_batch_size.",
                parameter="global_batch_size",
            )

    @property
    def num_virtual_ranks(self) -> int:
        """Batches of a complete window, if their number does not depend on the number of processes."""
        return _fewest_batches(self.size, self.batch_size)

    @property
    def own(self) -> range:
        """The virtual ranks of this process."""
        return virtual_ranks(self.num_virtual_ranks, self.rank, self.world_size, self.in_turn)

    @property
    def per_window(self) -> int:
        """Batches of each process in a complete window: the optimizer steps after this many."""
        if self.has_virtual_ranks:
            return -(-self.num_virtual_ranks // self.world_size)
        return _fewest_batches(self.size // self.world_size, self.batch_size)

    def batches_of(self, num_samples: int) -> int:
        """Return the number of batches of each process in a window.

        Args:
            num_samples: Samples in the window.

        Raises:
            DataError: There are fewer samples than processes.
        """
        if num_samples < self.world_size:
            raise DataError(
                f"A global batch of {samples(num_samples)}, the last one of an epoch, is too small for"
                f" {self.world_size} processes: use at most {num_samples}, or drop_last=True.",
                parameter="global_batch_size",
            )
        if self.has_virtual_ranks and num_samples < self.num_virtual_ranks:
            raise DataError(
                f"A global batch of {samples(num_samples)}, the last one of an epoch, is too small for"
                f" {self.num_virtual_ranks} virtual ranks: use drop_last=True, or a new run with a larger batch_size.",
                parameter="batch_size",
            )
        return self.per_window if self.has_virtual_ranks else min(self.per_window, num_samples // self.world_size)

    def num_batches(self, windows: Windows, number: int) -> int:
        """Return the number of batches of each process in the first windows of an epoch.

        Args:
            windows: All windows of the epoch.
            number: How many of them count.
        """
        number = min(number, windows.number)
        ends = range(max(0, number - 2), number)  # only the last two may be incomplete
        sizes = [end - start for start, end in map(windows.bounds, ends)]
        return (number - len(sizes)) * self.per_window + sum(map(self.batches_of, sizes))

    def batches(self, windows: Windows, start: int) -> Iterator[Places]:
        """Yield the places of each batch of this process.

        Args:
            windows: The windows of the epoch.
            start: Number of batches of this process to skip, all of them in complete windows.
        """
        first, skipped = divmod(start, self.per_window)
        for window in range(first, windows.number):
            begin, end = windows.bounds(window)
            count = self.batches_of(end - begin)
            for number in range(skipped, count):
                first_place, last_place = self.bounds(number, count, end - begin)
                yield np.arange(begin + first_place, begin + last_place)
            skipped = 0

    def parts(self, count: int) -> int:
        """Return the batches of a window, of all processes, of which each has a number."""
        return self.num_virtual_ranks if self.has_virtual_ranks else count * self.world_size

    def bounds(self, number: int, count: int, num_samples: int) -> tuple[int, int]:
        """Return the first place of a batch of this process in its window, and the one after its last.

        On one process, samples stay in their order: a test may collect what it has computed for them.

        Args:
            number: Number of the batch in its window.
            count: Batches of each process in the window.
            num_samples: Samples in the window.
        """
        part, parts = number * self.world_size + self.rank, self.parts(count)
        if self.has_virtual_ranks:
            part = self.own[min(number, len(self.own) - 1)]
        return -(-num_samples * part // parts), -(-num_samples * (part + 1) // parts)

    def __str__(self) -> str:
        """Return how a window is shared, as a part of a sentence."""
        count = self.per_window
        most = "at most " if self.has_virtual_ranks and self.num_virtual_ranks % self.world_size else ""
        own = f"{most}{count} batch{'es' if count > 1 else ''} of {self.size // self.parts(count)}"
        return own if self.world_size == 1 else f"{self.world_size} processes x {own}"


def virtual_ranks(number: int, rank: int, world_size: int, in_turn: bool = False) -> range:
    """Return which virtual ranks a process plays: nearly as many as each of the others.

    Where some processes have one less, they work on their last batch again, and nothing of that counts.

    Args:
        number: Number of virtual ranks.
        rank: Number of the process.
        world_size: Number of processes.
        in_turn: Whether processes play them in turn, rather than each of them those that follow each other.
    """
    if in_turn:
        return range(rank, number, world_size)
    return range(rank * number // world_size, (rank + 1) * number // world_size)


def samples(number: int) -> str:
    """Return a number of samples in words, as a part of a message."""
    return f"{number} sample{'s' if number != 1 else ''}"


@cache
def _fewest_batches(num_samples: int, batch_size: int) -> int:
    counts = range(1, num_samples + 1)
    return next(count for count in counts if num_samples % count == 0 and num_samples // count <= batch_size)
