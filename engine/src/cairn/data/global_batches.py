"""The global batches of an epoch, from the point of view of one process."""

from __future__ import annotations

from dataclasses import dataclass

from cairn.data.windows import Share, Windows, samples
from cairn.errors import DataError


@dataclass(frozen=True)
class GlobalBatches:
    """The global batches of an epoch, and what one process loads of them."""

    windows: Windows
    share: Share

    @property
    def size(self) -> int:
        """Samples in a complete one."""
        return self.share.size

    @property
    def per_window(self) -> int:
        """Batches of this process in a complete one."""
        return self.share.per_window

    @property
    def number(self) -> int:
        """Global batches in an epoch, on any number of processes."""
        return self.windows.number

    def size_of(self, window: int) -> int:
        """Return the number of samples in one of them, on all processes."""
        start, end = self.windows.bounds(window)
        return end - start

    def weight(self, batch: int) -> float:
        """Return the weight of a batch of this process in the mean over its global batch.

        Args:
            batch: Its number in the epoch. All batches of a complete global batch have the same size, so their mean is
                the mean over all samples, and their weight is 1.

        Returns:
            Samples in it, over the mean number of samples in a batch of that global batch.
        """
        window, number = divmod(batch, self.per_window)
        start, end = self.windows.bounds(window)
        if end - start == self.size:
            return 1.0
        count = self.share.batches_of(end - start)
        first, last = self.share.bounds(number, count, end - start)
        return (last - first) * self.share.parts(count) / (end - start)

    @property
    def is_even(self) -> bool:
        """Whether all batches of each global batch have the same size, so that each has the weight 1."""
        sizes = map(self.size_of, range(max(0, self.number - 2), self.number))  # the others are complete
        return all(size % self.share.parts(self.share.batches_of(size)) == 0 for size in sizes)

    def batches_in(self, number: int) -> int:
        """Return the number of batches of this process in the first global batches of an epoch."""
        return self.share.num_batches(self.windows, number)

    def check_even(self) -> None:
        """Check that each has as many batches of this process, since training accumulates a fixed number.

        Raises:
            DataError: The last one of an epoch has fewer.
        """
        number = self.number
        if number and self.batches_in(number) != number * self.per_window:
            raise DataError(
                f"The last global batch of an epoch has {samples(self.size_of(number - 1))}, too few for {self}: use"
                f" drop_last=True, a larger batch_size, or another global_batch_size.",
                parameter="global_batch_size",
            )

    def __str__(self) -> str:
        """Return how a complete one is shared, as a part of a sentence."""
        return str(self.share)
