"""Batches of the indices of a sampler, from a position that is read when an iterator is created."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import BatchSampler


class Batches(BatchSampler):
    """torch's BatchSampler, except that it creates the sampler's iterator at once and not at its first batch.

    Otherwise a second iterator over the same loader, created in between, would take the position of the first.
    """

    def __iter__(self) -> Iterator[list[Any]]:
        return self._grouped(iter(self.sampler))

    def _grouped(self, items: Iterator[Any]) -> Iterator[list[Any]]:
        while len(batch := list(islice(items, self.batch_size))) == self.batch_size:
            yield batch
        if batch and not self.drop_last:
            yield batch
