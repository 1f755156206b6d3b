"""What torch's DataLoader reads in place of the arguments of `cairn.DataLoader`, and the position in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import Dataset, IterableDataset, default_collate

from cairn.data.iterable import StatefulBatches, is_stateful
from cairn.data.position import IterablePosition, Position
from cairn.data.sampler import EpochSampler, NoOrder, Order, SeededOrder
from cairn.data.seeding import SeededItems

Collate = Callable[[list[Any]], Any] | None


def map_style(
    dataset: Any, batch_size: int | None, shuffle: bool, sampler: Any, batch_sampler: Any, *, seed: int, keyed: bool
) -> tuple[Position, dict[str, Any]]:
    """Return the position in a map-style dataset, and the arguments for torch.

    Args:
        dataset: The dataset.
        batch_size: Samples in a batch; None if the items are batches.
        shuffle: Whether each epoch has a new order.
        sampler: Yields indices; None: all of them.
        batch_sampler: Yields lists of indices; takes the place of `batch_size`, `shuffle` and `sampler`.
        seed: Seed of the order, and of the random numbers that samples draw.
        keyed: Whether the global generators are seeded for each sample.
    """
    items: Dataset[Any] = SeededItems(dataset, seed) if keyed else dataset
    order: Order
    if batch_sampler is not None:
        order = _ordered(batch_sampler, seed, keyed)
        return Position(order, 1), {"dataset": items, "batch_sampler": order}
    if sampler is None:
        order = EpochSampler(len(dataset), seed=seed, shuffle=shuffle, keyed=keyed)
    else:
        order = _ordered(sampler, seed, keyed)
    return Position(order, batch_size or 1), {"dataset": items, "batch_size": batch_size, "sampler": order}


def _ordered(sampler: Any, seed: int, keyed: bool) -> Order:
    return sampler if isinstance(sampler, Order) else SeededOrder(sampler, seed=seed, keyed=keyed)


def iterable(
    dataset: IterableDataset[Any], batch_size: int | None, collate_fn: Collate, *, drop_last: bool, replay: bool
) -> tuple[IterablePosition, dict[str, Any]]:
    """Return the position in an iterable dataset, and the arguments for torch.

    Args:
        dataset: The dataset.
        batch_size: Samples in a batch; None if the items are batches.
        collate_fn: Makes a batch of a list of samples; None: torch's default.
        drop_last: Drop the last batch of an epoch if it is smaller.
        replay: Whether the dataset starts again from its beginning after a resume inside an epoch.
    """
    # A worker lives for one epoch: that is how the epoch and the start reach it.
    arguments: dict[str, Any] = {"persistent_workers": False}
    if is_stateful(dataset) and not replay and batch_size is not None:
        batches = StatefulBatches(dataset, batch_size, drop_last)
        collate = partial(_collate_pair, collate_fn or default_collate)
        arguments |= {"dataset": batches, "batch_size": None, "collate_fn": collate}
        return IterablePosition(NoOrder(), 1, dataset, batches), arguments
    arguments |= {"dataset": dataset, "batch_size": batch_size, "collate_fn": collate_fn, "drop_last": drop_last}
    return IterablePosition(NoOrder(), batch_size or 1, dataset, None), arguments


def _collate_pair(collate: Callable[[list[Any]], Any], pair: tuple[list[Any], Any]) -> tuple[Any, Any]:
    samples, state = pair
    return collate(samples), state
