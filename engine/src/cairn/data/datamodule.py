"""Base class for a project's own data: set the datasets in `setup`, and a resume is exact."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import Dataset, IterableDataset

from cairn.data.loader import DataLoader
from cairn.data.position import BetweenEpochs
from cairn.data.sampler import EpochSampler
from cairn.errors import DataError


class DataModule(LightningDataModule):
    """Base class for a project's own data, which only has to set `train_set`, `val_set` and `test_set` in `setup`.

    The loaders are `cairn.DataLoader`s: the order of samples is a function of (seed, epoch), and each checkpoint holds
    their position. `train_set` may be an IterableDataset with `state_dict()` and `load_state_dict(state)`, and for
    several workers or processes `shard(num_shards, index)`, see `cairn.DataLoader`.

    A subclass passes on the options that it does not use itself:

        class Mine(cairn.DataModule):
            def __init__(self, folder: str, **options):
                super().__init__(**options)

    Args:
        batch_size: Samples in a batch of one process.
        num_workers: Number of processes that load; 0 loads in the main process.
        seed: Seed of the order of samples, and of the random numbers that samples draw.
        pin_memory: Copy batches to page-locked memory, if there is an accelerator.
        persistent_workers: Keep the workers from one epoch to the next (not those of a stateful iterable).
        drop_last: Leave out the last batch of an epoch if it is smaller.
        replay: Let an iterable training set start again from its beginning after a resume inside an epoch.
        global_batch_size: See `cairn.DataLoader`.

    Raises:
        DataError: One of the numbers is out of range.
    """

    seeded_items: bool = True
    """Whether the training set draws random numbers. True is always correct, and costs 11 us per sample.

    The samples of the other sets always draw numbers that are a function of (seed, index): scores can be compared.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        num_workers: int = 0,
        seed: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        drop_last: bool = False,
        replay: bool = False,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = self._first_batch_size = _number("batch_size", batch_size, least=1)
        self.global_batch_size = global_batch_size and _number("global_batch_size", global_batch_size, least=1)
        self.num_workers = _number("num_workers", num_workers, least=0)
        self.seed = seed
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.drop_last, self.replay = drop_last, replay
        self.train_set: Dataset[Any] | None = None
        self.val_set: Dataset[Any] | None = None
        self.test_set: Dataset[Any] | None = None
        self._tried: set[tuple[type, type]] = set()
        """Classes of the training loaders and data sets that were tried."""
        self._older_place: tuple[Any, dict[str, Any]] | None = None  # trainer, position of a checkpoint of Cairn 0.1

    # Loaders

    def train_dataloader(self) -> Any:
        """A `cairn.DataLoader` of this rank's part of `train_set`.

        Raises:
            DataError: `train_set` is missing, or an iterable whose position cannot be saved.
        """
        if self.train_set is None:
            raise DataError(f"{type(self).__name__}.setup() must set `train_set`, and left it None.")
        shuffle = None if isinstance(self.train_set, IterableDataset) else True
        options = {"seeded_items": self.seeded_items, "drop_last": self.drop_last, "replay": self.replay}
        loader = self._loader(self.train_set, shuffle=shuffle, **options)
        kind = (type(loader), type(self.train_set))
        loader.check_resumable(is_tried=kind in self._tried)  # the trainer may ask for a loader in each epoch
        self._tried.add(kind)
        if self._older_place is not None and self._older_place[0] is self.trainer:
            loader.load_state_dict(self._older_place[1])
        return loader

    def val_dataloader(self) -> Any:
        """A loader of this rank's part of `val_set`, in its own order; an empty list if there is none."""
        return [] if self.val_set is None else self._in_order(self.val_set)

    def test_dataloader(self) -> Any:
        """A loader of this rank's part of `test_set`, in its own order; an empty list if there is none."""
        return [] if self.test_set is None else self._in_order(self.test_set)

    def _in_order(self, dataset: Dataset[Any]) -> DataLoader:
        # An iterable is divided into global batches only where it is trained on: its last batches would be left out.
        loader = self._loader(dataset, **({"global_batch_size": None} if isinstance(dataset, IterableDataset) else {}))
        if isinstance(loader.sampler, EpochSampler):
            loader.sampler.keyed = False  # without an epoch: a sample draws the same numbers each time
        return loader

    def _loader(self, dataset: Dataset[Any], **options: Any) -> DataLoader:
        return DataLoader(
            dataset,
            self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            pin_memory=self.pin_memory and torch.accelerator.is_available(),
            persistent_workers=self.persistent_workers,
            **{"global_batch_size": self.global_batch_size} | options,
        )

    # What a checkpoint records about the data

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a checkpoint and its resume, as numbers and strings; extend it by `|`.

        The loader checks its own facts: batch size, seed, number of samples and of processes.
        """
        size = "batch_size" if self.global_batch_size is None else "global_batch_size"
        return {size: getattr(self, size), "seed": self.seed}

    def state_dict(self) -> dict[str, Any]:
        """Return the identity. The position is part of the loader's state."""
        changed = self.batch_size != self._first_batch_size and self.global_batch_size is None
        return self.identity() | ({"first_batch_size": self._first_batch_size} if changed else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that this is the data of the checkpoint, if the trainer trains.

        Raises:
            DataError: The data is different; the message names all differences.
        """
        trainer: Any = self.trainer
        if trainer is not None and trainer.state.fn != TrainerFn.FITTING:
            return
        finders = [item for item in getattr(trainer, "callbacks", ()) if isinstance(item, BatchSizeFinder)]
        if finders and "batch_size" in state_dict:
            if getattr(trainer.fit_loop, "inner", False):
                return  # the finder puts back its temporary checkpoint, which has the batch size from before
            self.batch_size = state_dict["batch_size"]  # it was found, and a resume does not search again
        if state_dict.get("first_batch_size") == self.batch_size:
            self.batch_size = state_dict["batch_size"]  # training has changed it
        changes = [
            f"{key} was {state_dict.get(key)!r} and is {now!r}"
            for key, now in self.identity().items()
            if state_dict.get(key) != now and not (isinstance(state_dict, BetweenEpochs) and key in _FACTS_OF_LOADERS)
            if key not in _SIZES or key in state_dict or _SIZES.isdisjoint(state_dict)
        ]
        if changes:
            raise DataError(
                f"The checkpoint was made with other data: {', '.join(changes)}. Set that back, or start a new run from"
                " the weights alone."
            )
        if "batch" in state_dict:
            self._older_place = (self.trainer, state_dict)


_SIZES = {"batch_size", "global_batch_size"}
"""If a checkpoint has the other one of them, the loaders compare what they mean."""
_FACTS_OF_LOADERS = ("batch_size", "global_batch_size", "seed")
"""Facts that loaders check, too: they may change between two epochs."""


def _number(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise DataError(f"{name}={value!r} must be an integer from {least}.", parameter=name)
    return value
