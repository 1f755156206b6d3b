"""The batches that a process predicts, out of a loader of the user: each sample once, in the order of the data.

the user's loader      dataset, batch size, collate function, workers           kept
its order              shuffled, divided among processes, last batch dropped    replaced: the plan divides batches
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, RandomSampler

from cairn.data.sampler import EpochSampler
from cairn.data.seeded_order import SeededOrder
from cairn.data.seeding import SeededCollate, SeededItems, isolated, mix_seed, seeded
from cairn.errors import DataError
from cairn.predictions.plan import Entry

Batch = Sequence[Any]
"""Indices of the samples of a batch: a range where they follow each other, because there may be many."""


class Share:
    """The batches that this process predicts. Not a DataLoader: Lightning would divide its samples once more.

    Args:
        loader: The user's.
        batches: Indices of all batches; None: the loader has none, and is read from its beginning.
        entries: What this process predicts, in order.
        skip: Batches at the beginning that are read and left out, of a loader without indices.
        seed: Seed of the random numbers that samples draw.
    """

    def __init__(
        self, loader: Any, batches: Sequence[Batch] | None, entries: Sequence[Entry], skip: int, seed: int
    ) -> None:
        self.loader, self.batches, self.entries, self.skip, self.seed = loader, batches, entries, skip, seed

    def __iter__(self) -> Iterator[Any]:
        if self.batches is None:
            return islice(isolated(self.loader, self.seed), self.skip, None)
        return iter(_again(self.loader, _Chosen(self.batches, self.entries), self.seed))

    def __len__(self) -> int:
        if self.batches is None:
            return max(0, len(self.loader) - self.skip)  # raises TypeError where the loader does
        return len(self.entries)


class _Chosen:
    """Batch sampler of the entries of this process."""

    def __init__(self, batches: Sequence[Batch], entries: Sequence[Entry]) -> None:
        self.batches, self.entries = batches, entries

    def __iter__(self) -> Iterator[list[Any]]:
        return (list(self.batches[entry.batch]) for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class Limited:
    """The first batches of a loader that is only iterated.

    Args:
        loader: The loader.
        limit: `trainer.limit_predict_batches`: a number of batches, or a fraction of them.
    """

    def __init__(self, loader: Any, limit: float) -> None:
        self.loader, self.limit = loader, limit

    def __iter__(self) -> Iterator[Any]:
        return islice(self.loader, self._most())

    def __len__(self) -> int:
        most = self._most()
        return len(self.loader) if most is None else min(most, len(self.loader))

    def _most(self) -> int | None:
        if not isinstance(self.limit, float):
            return self.limit
        return None if self.limit == 1.0 else int(self.limit * len(self.loader))


def batches_of(loader: Any, limit: float, seed: int) -> list[Batch] | None:
    """Return the indices of all batches, whichever process they are for; None: they have none.

    Args:
        loader: The user's loader.
        limit: `trainer.limit_predict_batches`: a number of batches, or a fraction of them.
        seed: Seed of the random numbers that a sampler draws.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if not hasattr(loader.dataset, "__len__") or "__iter__" in _own_names(type(loader)):
        return None
    with seeded(seed):
        found = _batches(loader)
    number = int(limit * len(found)) if isinstance(limit, float) else int(limit)
    return found[:number]


def _own_names(kind: type) -> set[str]:
    """Return the attributes that a subclass of the user adds to a loader of torch or of Cairn."""
    bases = kind.__mro__[: next(at for at, base in enumerate(kind.__mro__) if _is_known(base))]
    return {name for base in bases for name in vars(base)}


def _is_known(kind: type) -> bool:
    return kind is DataLoader or kind.__module__.startswith("cairn.data.")


def _batches(loader: DataLoader[Any]) -> list[Batch]:
    sampler, batch_sampler = loader.sampler, loader.batch_sampler
    if isinstance(sampler, SeededOrder):  # of a cairn.DataLoader: what the user has given
        if sampler.is_batched and sampler.dealing is None:
            return [list(batch) for batch in sampler.sampler]
        own: Any = _unlike(sampler.sampler, len(loader.dataset))  # type: ignore[arg-type]
        return _grouped(own, sampler.dealing.batch_size if sampler.dealing else loader.batch_size)
    if isinstance(sampler, EpochSampler):
        size = sampler.dealing.batch_size if sampler.dealing else loader.batch_size
        return _grouped(range(len(loader.dataset)), size)  # type: ignore[arg-type]
    if batch_sampler is not None and not isinstance(batch_sampler, BatchSampler):
        return [list(batch) for batch in batch_sampler]
    if batch_sampler is not None and type(batch_sampler).__iter__ is not BatchSampler.__iter__:
        return [list(batch) for batch in batch_sampler]
    size = batch_sampler.batch_size if isinstance(batch_sampler, BatchSampler) else loader.batch_size
    return _grouped(_unlike(sampler, len(loader.dataset)), size)  # type: ignore[arg-type]


def _unlike(sampler: Any, num_samples: int) -> Sequence[Any]:
    """Return the order of a sampler, once each; of one that shuffles or divides samples, that of the data set."""
    if isinstance(sampler, RandomSampler | DistributedSampler):
        return range(num_samples)
    return list(dict.fromkeys(sampler))


def _grouped(indices: Sequence[Any], size: int | None) -> list[Batch]:
    if size is None:  # the items of the data set are batches
        return [[index] for index in indices]
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def _again(loader: DataLoader[Any], batches: _Chosen, seed: int) -> DataLoader[Any]:
    """Return a loader of certain batches, whose samples draw the same random numbers wherever they are loaded."""
    dataset, collate = loader.dataset, loader.collate_fn
    if not isinstance(dataset, SeededItems):
        dataset = SeededItems(dataset, mix_seed(seed))
        collate = SeededCollate(collate, dataset)
    are_items = loader.batch_sampler is None
    order: Mapping[str, Any] = {"batch_sampler": batches}
    if are_items:
        order = {"batch_size": None, "sampler": [index for (index,) in batches]}
    return DataLoader(
        dataset,
        **order,
        num_workers=loader.num_workers,
        collate_fn=collate,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )


def check_alone(world_size: int) -> None:
    """Refuse to divide a loader without indices among several processes.

    Raises:
        DataError: There are several.
    """
    if world_size > 1:
        raise DataError(
            f"Predictions on {world_size} processes need data with a length and indices, and these have none (an "
            f"iterable data set, or a loader with an __iter__ of its own): predict on one process, with "
            f"trainer.devices=1."
        )
