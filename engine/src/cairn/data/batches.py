"""Batches of the indices of a sampler: from a position that is read when an iterator is created, or without a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import BatchSampler, SequentialSampler


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


class _Slices(Sequence[list[Any]]):
    """Batches of a sequence, each of which is made when it is read."""

    def __init__(self, items: Sequence[Any], batch_size: int, drop_last: bool) -> None:
        self._items, self._size = items, batch_size
        self._number = len(items) // batch_size if drop_last else -(-len(items) // batch_size)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, at: Any) -> Any:
        return list(self._items[at * self._size : (at + 1) * self._size])


def in_order(sampler: Any) -> Sequence[Any] | None:
    """Return the items of a sampler that draws none and needs no list of them, however large its dataset is.

    Args:
        sampler: A sampler, or a batch sampler.

    Returns:
        A range or a tuple, or the batches of one; None for any other sampler.
    """
    if isinstance(sampler, range | tuple):
        return sampler
    if type(sampler) is SequentialSampler:
        return range(len(sampler.data_source))
    if type(sampler) is BatchSampler and (items := in_order(sampler.sampler)) is not None:
        return _Slices(items, sampler.batch_size, sampler.drop_last)
    return None
