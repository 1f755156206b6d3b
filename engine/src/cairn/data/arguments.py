"""Checks of the arguments of a `cairn.DataLoader` that would otherwise be ignored, or fail in the middle of a run."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch.utils.data import DataLoader

from cairn.data.iterable import is_iterable
from cairn.errors import DataError

_ONE_PASS = ("builtins", "itertools")
"""Modules of the iterators that can be read only once, such as generators."""

_READS = ("__getitem__", "__getitems__")
"""Methods that read one sample, or several at once: a dataset needs one of them."""


def check(dataset: Any, batch_size: Any, shuffle: Any, sampler: Any, batch_sampler: Any, drop_last: bool) -> None:
    """Check what the batches are made of.

    Args:
        dataset: As in `cairn.DataLoader`, like the following ones.
        batch_size: Samples in a batch.
        shuffle: Whether each epoch has a new order.
        sampler: Yields indices.
        batch_sampler: Yields lists of indices.
        drop_last: Whether the last batch is dropped if it is smaller.

    Raises:
        DataError: An argument is not what it must be, or contradicts another one.
    """
    _check_dataset(dataset)
    is_number = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if batch_size is not None and (not is_number or batch_size < 1):
        raise DataError(f"batch_size={batch_size!r} must be an integer from 1, or None if the items are batches.")
    if shuffle and (sampler is not None or batch_sampler is not None):
        raise DataError("shuffle=True contradicts a sampler: give one of them.")
    if is_iterable(dataset):
        given = {"shuffle": shuffle or None, "sampler": sampler, "batch_sampler": batch_sampler}
        if names := [name for name, value in given.items() if value is not None]:
            raise DataError(
                f"{names[0]} has no effect on the iterable {type(dataset).__name__}, which has its own order: leave it "
                f"out, and shuffle inside the dataset."
            )
    if batch_sampler is not None and (batch_size != 1 or sampler is not None or drop_last):
        raise DataError("batch_sampler takes the place of batch_size, shuffle, sampler and drop_last: leave these out.")
    if batch_size is None and drop_last:
        raise DataError("drop_last=True needs a batch_size: with batch_size=None, each item is a batch.")
    _check_passes(sampler=sampler, batch_sampler=batch_sampler)


def check_others(seed: Any, num_workers: Any, in_order: bool, collate_fn: Any, worker_init_fn: Any) -> None:
    """Check arguments that torch does not check.

    Args:
        seed: Seed of the order.
        num_workers: Number of processes that load.
        in_order: False if a batch is delivered as soon as a worker has it.
        collate_fn: Makes a batch of a list of samples.
        worker_init_fn: Called in each worker.

    Raises:
        DataError: One of them is not what it must be, or the order of the batches depends on the machine.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise DataError(f"seed={seed!r} must be an integer.")
    for name, function in (("collate_fn", collate_fn), ("worker_init_fn", worker_init_fn)):
        if function is not None and not callable(function):
            raise DataError(f"{name}={function!r} must be a function.")
    if not in_order and isinstance(num_workers, int) and num_workers > 1:
        raise DataError(
            "in_order=False delivers the batches of several workers in an order that no resume can repeat: leave it "
            "out, or use torch's DataLoader."
        )


def _check_dataset(dataset: Any) -> None:
    if isinstance(dataset, DataLoader):
        raise DataError(f"The dataset is a loader ({type(dataset).__name__}): give the dataset inside of it.")
    if not is_iterable(dataset) and not any(hasattr(dataset, name) for name in _READS):
        raise DataError(
            f"The dataset ({type(dataset).__name__}) has no samples by index: it needs __getitem__ and __len__, or "
            f"must derive from torch.utils.data.IterableDataset."
        )


def _check_passes(**samplers: Any) -> None:
    for name, sampler in samplers.items():
        if hasattr(sampler, "__next__") and type(sampler).__module__ in _ONE_PASS:
            raise DataError(
                f"{name} is a {type(sampler).__name__}, which can be read only once, and each epoch reads it: give a "
                f"list, or a torch.utils.data.Sampler."
            )
