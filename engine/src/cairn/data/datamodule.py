"""Decides how a project's datasets become loaders that can go on exactly where a checkpoint left them."""

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cairn.data.iterable import Deliveries, EpochLoader, StatefulBatches, StatefulLoader, is_stateful
from cairn.data.sampler import EpochSampler
from cairn.data.seeding import SeededItems, mix_seed
from cairn.data.workers import leave_signals_to_main
from cairn.errors import DataError

Place = tuple[int, int]  # (epoch, batches of that epoch that were trained on)


class DataModule(LightningDataModule):
    """The base of a project's own data: set `train_set`, `val_set`, `test_set` in `setup(stage)`, and that is
    all.

    `train_set` may be an IterableDataset: if it offers `state_dict()` and `load_state_dict(state)`, a resume
    is exact (see `StatefulBatches` for what it has to keep to, and at most one worker); else it has to be
    asked for `replay`.

    The order of samples is a function of (seed, epoch), and the position in it is a number of batches; both
    do not depend on `num_workers`. The samplers know their rank: give the Trainer
    `use_distributed_sampler=False`.

    Args:
        batch_size: samples in a batch of one rank.
        num_workers: processes that load; 0 loads in the main process.
        seed: of the order of samples, and of the random numbers that samples draw.
        pin_memory: copy batches to page-locked memory, if there is an accelerator.
        persistent_workers: keep the workers from one epoch to the next (not those of a stateful iterable).
        drop_last: leave out the last batch of an epoch if it is smaller.
        replay: an iterable training set may start again from its head after a resume inside an epoch.
    """

    # Does the training set draw random numbers? True is always right, and costs 11 us a sample (see
    # `SeededItems`).
    seeded_items: bool = True

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
    ) -> None:
        super().__init__()
        self.batch_size = _number("data.batch_size", batch_size, least=1)
        self.num_workers = _number("data.num_workers", num_workers, least=0)
        self.seed = seed
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.drop_last = drop_last
        self.replay = replay
        self.train_set: Dataset[Any] | None = None
        self.val_set: Dataset[Any] | None = None
        self.test_set: Dataset[Any] | None = None
        self._deliveries = Deliveries()
        self._resumed: tuple[Any, Place, Any] | None = None  # trainer, place, state of an iterable

    # Loaders

    def train_dataloader(self) -> DataLoader[Any]:
        """A loader at the trainer's place, or at the one that a checkpoint just told.

        Raises:
            ValueError: if `train_set` is missing, or an iterable whose position cannot be kept.
        """
        if self.train_set is None:
            raise DataError(f"{type(self).__name__}.setup() has to set `train_set`, but left it None.")
        if not isinstance(self.train_set, IterableDataset):
            return self._shuffled_loader(self.train_set)
        if self.replay:
            return self._replaying_loader(self.train_set)
        return self._stateful_loader(self.train_set)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """A loader of this rank's part of `val_set`, in its own order; an empty list if there is none."""
        return self._sequential_loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """A loader of this rank's part of `test_set`, in its own order; an empty list if there is none."""
        return self._sequential_loader(self.test_set)

    def _shuffled_loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        (epoch, batch), _ = self._start()
        sampler = self._sampler(dataset, shuffle=True, keyed=self.seeded_items)
        sampler.seek(epoch, batch * self.batch_size)
        items = SeededItems(dataset, self.seed) if self.seeded_items else dataset
        return DataLoader(items, self.batch_size, sampler=sampler, drop_last=self.drop_last, **self._options())

    def _sequential_loader(self, dataset: Dataset[Any] | None) -> DataLoader[Any] | list[Any]:
        if dataset is None:
            return []
        if isinstance(dataset, IterableDataset):
            return DataLoader(dataset, self.batch_size, **self._options())
        sampler = self._sampler(dataset, shuffle=False)
        return DataLoader(dataset, self.batch_size, sampler=sampler, **self._options())

    def _stateful_loader(self, dataset: IterableDataset[Any]) -> DataLoader[Any]:
        self._check_position_can_be_kept(dataset)
        (_, batch), state = self._start()
        self._deliveries.seek(batch, state)
        batches = StatefulBatches(dataset, self.batch_size, self.drop_last)
        # Each epoch's worker is made anew: that is how the epoch and the start reach it.
        options = self._options() | {"persistent_workers": False}
        return StatefulLoader(batches, self._epoch, self._deliveries, **options)

    def _replaying_loader(self, dataset: IterableDataset[Any]) -> DataLoader[Any]:
        (_, batch), _ = self._start()
        warnings.warn(
            f"After a resume inside an epoch {type(dataset).__name__} starts again from its head"
            f" (data.replay=true): {batch or 'k'} batches come twice, and others not at all.",
            stacklevel=2,
        )
        options = self._options() | {"persistent_workers": False}
        return EpochLoader(dataset, self._epoch, batch_size=self.batch_size, drop_last=self.drop_last, **options)

    def _check_position_can_be_kept(self, dataset: IterableDataset[Any]) -> None:
        name, world_size = type(dataset).__name__, self._rank_and_world_size()[1]
        if not is_stateful(dataset):
            raise DataError(
                f"The position in the iterable {name} cannot be saved, for it has no state_dict() and"
                " load_state_dict(): give it these two, or set data.replay=true to let it start again from"
                " its head after a resume."
            )
        if self.num_workers > 1 or world_size > 1:
            raise DataError(
                f"The iterable {name} can be resumed exactly with num_workers of 0 or 1 in one process, but"
                f" there are {self.num_workers} workers in {world_size}, and each would hold a position of"
                " its own; data.replay=true gives exact resumes up."
            )

    def _sampler(self, dataset: Dataset[Any], shuffle: bool, keyed: bool = False) -> EpochSampler:
        rank, world_size = self._rank_and_world_size()
        num_samples = len(dataset)  # type: ignore[arg-type]  # map-style datasets have a length
        return EpochSampler(num_samples, seed=self.seed, shuffle=shuffle, rank=rank, world_size=world_size, keyed=keyed)

    def _options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory and torch.accelerator.is_available(),
            "persistent_workers": self.persistent_workers and self.num_workers > 0,
            "worker_init_fn": leave_signals_to_main,
            # Making an iterator draws a number: from here, and never from what the training draws from.
            "generator": torch.Generator().manual_seed(mix_seed(self.seed)),
        }

    # Position

    def identity(self) -> dict[str, Any]:
        """What may not change between a checkpoint and its resume, as numbers and strings; extend it by `|`.

        `num_samples` is missing where it is not known: before `setup`, and for an iterable.
        """
        identity = {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "world_size": self._rank_and_world_size()[1],
        }
        if self.train_set is not None and not isinstance(self.train_set, IterableDataset):
            identity["num_samples"] = len(self.train_set)  # type: ignore[arg-type]
        return identity

    def state_dict(self) -> dict[str, Any]:
        """The identity, and beside it `epoch` and `batch`: the batches of that epoch that were *trained on*.

        For a stateful iterable also `dataset`: its state after that batch (None at the head of an epoch).
        """
        epoch, batch = self._place()
        state = self.identity() | {"epoch": epoch, "batch": batch}
        if self._keeps_dataset_state():
            state["dataset"] = self._deliveries.after(batch) if batch else None
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the training go on after that batch. Ignored unless the trainer fits: a test has no position.

        Raises:
            ValueError: if this is not the data that the state was made with; names all that differs.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        self._check_identity(state_dict)
        place = (state_dict["epoch"], state_dict["batch"])
        self._resumed = (self.trainer, place, state_dict.get("dataset"))

    def _check_identity(self, state: dict[str, Any]) -> None:
        changes = [
            f"{key} was {state.get(key)!r} and is {now!r}"
            for key, now in self.identity().items()
            if state.get(key) != now
        ]
        if self._keeps_dataset_state() and state["batch"] and state.get("dataset") is None:
            changes.append("the position of the iterable was not saved and is needed")
        if changes:
            raise DataError(
                f"The checkpoint stands at batch {state['batch']} of epoch {state['epoch']} of other data:"
                f" {', '.join(changes)}; set that back, or start a new run with init_weights=..."
            )

    def _keeps_dataset_state(self) -> bool:
        return isinstance(self.train_set, IterableDataset) and not self.replay

    def _start(self) -> tuple[Place, Any]:
        """Where the next loader begins, and the state of an iterable there (None at the head of an epoch).

        A trainer may ask for a loader more than once before it goes on, and before its own counters are
        restored (`estimated_stepping_batches` does): so a resumed place holds until *that* trainer is beyond
        it.
        """
        here = self._place()
        if self._resumed is None or self._resumed[0] is not self.trainer or here > self._resumed[1]:
            return here, None
        return self._resumed[1:]

    def _epoch(self) -> int:
        return self._start()[0][0]

    def _place(self) -> Place:
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        # Outside of an epoch the count of batches is still that of the last one. `processed` is counted
        # before the hooks of an epoch's end, and the number of the epoch with it.
        is_inside = epoch.started > epoch.processed
        return self.trainer.current_epoch, loop.epoch_loop.batch_progress.current.ready if is_inside else 0

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def _number(key: str, value: int, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise DataError(f"{key}={value!r} must be a whole number from {least}.")
    return value
