"""What torch's DataLoader reads in place of the arguments of `cairn.DataLoader`, and the position in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import IterableDataset, default_collate, default_convert

from cairn.data.divided import LEFT, DividedBatches
from cairn.data.divided_position import DividedPosition
from cairn.data.iterable import StatefulBatches, is_stateful
from cairn.data.iterable_position import IterablePosition
from cairn.data.position import Position
from cairn.data.sampler import EpochSampler, NoOrder, Order
from cairn.data.seeded_order import SeededOrder
from cairn.data.seeding import SeededCollate, SeededItems
from cairn.data.substreams import can_divide, num_batches
from cairn.data.window_position import WindowPosition
from cairn.data.windows import Dealing
from cairn.errors import DataError

Collate = Callable[[list[Any]], Any] | None


def is_of_a_prediction(batch_sampler: Any) -> bool:
    """Whether Lightning has wrapped the batches of `Trainer.predict` to know their indices.

    The wrapper must stay outermost, and yield plain indices.
    """
    return type(batch_sampler).__name__ == "_IndexBatchSamplerWrapper"


def map_style(
    dataset: Any,
    batch_size: int | None,
    shuffle: bool,
    sampler: Any,
    batch_sampler: Any,
    collate_fn: Collate,
    *,
    seed: int,
    keyed: bool,
    dealing: Dealing | None = None,
) -> tuple[Position, dict[str, Any]]:
    """Return the position in a map-style dataset, and the arguments for torch.

    Args:
        dataset: The dataset.
        batch_size: Samples in a batch; None if the items are batches.
        shuffle: Whether each epoch has a new order.
        sampler: Yields indices; None: all of them.
        batch_sampler: Yields lists of indices; takes the place of `batch_size`, `shuffle` and `sampler`.
        collate_fn: Makes a batch of a list of samples; None: torch's default, which draws nothing.
        seed: Seed of the order, and of the random numbers that samples draw.
        keyed: Whether the generators are seeded for each sample.
        dealing: How global batches are dealt out; None: each process has batches of its own.
    """
    # Lightning creates a loader again from the attributes of the first one.
    dataset = dataset.wrapped if isinstance(dataset, SeededItems) else dataset
    collate_fn = collate_fn.collate if isinstance(collate_fn, SeededCollate) else collate_fn
    arguments: dict[str, Any] = {"dataset": dataset, "collate_fn": collate_fn}
    if keyed:
        items = SeededItems(dataset, seed)
        arguments |= {"dataset": items, "collate_fn": SeededCollate(collate_fn, items) if collate_fn else None}
    order: Order
    if is_of_a_prediction(batch_sampler):
        _yield_plain_indices(batch_sampler)
        return Position(NoOrder(), 1), arguments | {"batch_sampler": batch_sampler}
    if batch_sampler is not None:
        order = _ordered(batch_sampler, seed, keyed, is_batched=True)
        # A loader that Lightning creates again has the order of the first one as its batch sampler.
        place = Position(order, 1) if order.dealing is None else WindowPosition(order)
        return place, arguments | {"batch_sampler": order}
    if sampler is None:
        order = EpochSampler(dataset, seed=seed, shuffle=shuffle, keyed=keyed, dealing=dealing)
    else:
        order = _ordered(sampler, seed, keyed, is_batched=False, dealing=dealing)
    if dealing is not None:
        return WindowPosition(order), arguments | {"batch_sampler": order}
    return Position(order, batch_size or 1), arguments | {"batch_size": batch_size, "sampler": order}


def dealing(batch_size: int | None, batch_sampler: Any, global_batch_size: int, drop_last: bool) -> Dealing:
    """Return how a loader deals out global batches.

    Raises:
        DataError: It cannot.
    """
    why = ""
    if not isinstance(global_batch_size, int) or global_batch_size < 1:
        why = f"global_batch_size={global_batch_size!r} must be an integer from 1"
    elif batch_size is None:
        why = "global_batch_size needs a batch_size, and the items of this dataset are batches"
    elif batch_sampler is not None and not isinstance(batch_sampler, Order):
        why = "global_batch_size contradicts a batch_sampler, which makes the batches: give a sampler"
    if why:
        raise DataError(f"{why}.", parameter="global_batch_size")
    assert batch_size is not None
    return Dealing(global_batch_size, batch_size, drop_last)


def _yield_plain_indices(batch_sampler: Any) -> None:
    batches = batch_sampler._batch_sampler
    if isinstance(batches, Order):
        batch_sampler._batch_sampler = _unkeyed(batches)
    elif isinstance(batches.sampler, Order):
        batches.sampler = _unkeyed(batches.sampler)


def _unkeyed(order: Order) -> Order:
    order = copy.copy(order)  # the loader that was given has it, too
    order.keyed = False
    return order


def _ordered(sampler: Any, seed: int, keyed: bool, is_batched: bool, dealing: Dealing | None = None) -> Order:
    if isinstance(sampler, Order):
        return sampler
    return SeededOrder(sampler, seed=seed, keyed=keyed, is_batched=is_batched, dealing=dealing)


def iterable(
    dataset: Any,
    batch_size: int | None,
    collate_fn: Collate,
    *,
    drop_last: bool,
    replay: bool,
    seed: int | None,
    num_workers: int = 0,
    global_batch_size: int | None = None,
) -> tuple[IterablePosition, dict[str, Any]]:
    """Return the position in an iterable dataset, and the arguments for torch.

    Args:
        dataset: The dataset.
        batch_size: Samples in a batch; None if the items are batches.
        collate_fn: Makes a batch of a list of samples; None: torch's default.
        drop_last: Drop the last batch of an epoch if it is smaller.
        replay: Whether the dataset starts again from its beginning after a resume inside an epoch.
        seed: Seed of the random numbers that the dataset draws; None: the global generators are left alone.
        num_workers: Number of processes that load.
        global_batch_size: Samples in a global batch; None: each process has batches of its own.

    Raises:
        DataError: The dataset cannot be divided into global batches.
    """
    if isinstance(dataset, StatefulBatches):  # Lightning creates a loader again from the attributes of the first one
        batch_size, drop_last, dataset = dataset.batch_size, dataset.drop_last, dataset.wrapped
        collate_fn = collate_fn.args[0] if isinstance(collate_fn, partial) else collate_fn
        collate_fn = collate_fn.collate if isinstance(collate_fn, SeededCollate) else collate_fn
    number = None if global_batch_size is None else num_batches(dataset, batch_size, global_batch_size)
    if number is not None and replay:
        raise DataError(
            "replay=True starts again from the beginning, and global_batch_size is for exact resumes: leave one out.",
            parameter="global_batch_size",
        )
    if replay and not isinstance(dataset, IterableDataset):
        raise DataError(f"replay=True needs an IterableDataset, and {type(dataset).__name__} is not one: leave it out.")
    if hasattr(dataset, "restart_on_stop_iteration"):  # of torchdata.nodes: a resume at the end is at the end
        dataset.restart_on_stop_iteration = False
    # A worker lives for one epoch: that is how the epoch and the start reach it.
    arguments: dict[str, Any] = {"persistent_workers": False}
    if is_stateful(dataset) and not replay:
        position: IterablePosition
        if can_divide(dataset):
            batches: StatefulBatches = (divided := DividedBatches(dataset, batch_size, drop_last, seed))
            position = DividedPosition(NoOrder(), dataset, divided, num_workers, global_batch_size, number)
        else:
            batches = StatefulBatches(dataset, batch_size, drop_last, seed)
            position = IterablePosition(NoOrder(), 1, dataset, batches)
        collate = collate_fn or (default_convert if batch_size is None else default_collate)
        if collate_fn is not None and seed is not None:
            collate = SeededCollate(collate, batches)
        arguments |= {"dataset": batches, "batch_size": None, "collate_fn": partial(_collate_pair, collate)}
        return position, arguments
    arguments |= {"dataset": dataset, "batch_size": batch_size, "collate_fn": collate_fn, "drop_last": drop_last}
    return IterablePosition(NoOrder(), batch_size or 1, dataset, None), arguments


def _collate_pair(collate: Callable[[Any], Any], pair: tuple[Any, Any]) -> tuple[Any, Any]:
    samples, state = pair
    return (None if LEFT in state else collate(samples)), state
