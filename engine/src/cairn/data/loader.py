"""A drop-in for torch's DataLoader whose position is saved in every checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils import data
from torch.utils.data import Dataset, IterableDataset, Sampler, default_collate

from cairn.data import workers
from cairn.data.iterable import Deliveries, StatefulBatches, is_stateful
from cairn.data.sampler import EpochSampler, NoOrder, Order, SeededOrder, rank_and_world_size
from cairn.data.seeding import SeededItems, mix_seed
from cairn.errors import DataError


class DataLoader(data.DataLoader[Any]):
    """torch's DataLoader with a position: a number of batches, in an order that is a function of (seed, epoch).

    It takes what `torch.utils.data.DataLoader` takes, and works wherever Lightning takes one: in `trainer.fit(model,
    loader)`, in a `LightningDataModule`, in lists and dicts of loaders, in a `CombinedLoader`, and on several
    processes, each of which loads its own part (whatever the Trainer's `use_distributed_sampler` says). Lightning
    saves and loads the position through `state_dict` and `load_state_dict`. The samples do not depend on the number
    of workers.

    - Your own `sampler` or `batch_sampler` draws from generators that are seeded by (seed, epoch), see `SeededOrder`.
    - Without random numbers in the dataset, `seeded_items=False` saves 11 us a sample.
    - An `IterableDataset` that is trained on needs `state_dict()` and `load_state_dict(state)`, see `StatefulBatches`,
      and at most one worker in one process; or `replay=True`, to start again from its beginning after a resume.
    - Outside of Lightning, `set_epoch(epoch)` chooses the epoch; without it, each pass has its own order.

    Args:
        dataset: Map-style or iterable.
        batch_size: Samples in a batch of one process; None if the dataset's items are batches.
        shuffle: Whether each epoch has a new order.
        sampler: Yields indices; takes the place of `shuffle`.
        batch_sampler: Yields lists of indices; takes the place of `batch_size`, `shuffle`, `sampler` and `drop_last`.
        num_workers: Number of processes that load; 0 loads in the main process.
        collate_fn: Makes a batch of a list of samples.
        seed: Seed of the order of samples, and of the random numbers that samples draw.
        seeded_items: Whether the global generators are seeded for each sample by (seed, epoch, index).
        replay: Whether an iterable may start again from its beginning after a resume inside an epoch.
        worker_init_fn: As in torch.
        generator: As in torch; by default one of its own, so that the global one is never drawn from.
        persistent_workers: As in torch; an iterable's workers are restarted in each epoch.
        **options: Further arguments of torch's DataLoader.

    Raises:
        DataError: `shuffle` and a sampler are given.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        *,
        seed: int = 0,
        seeded_items: bool = True,
        replay: bool = False,
        worker_init_fn: Callable[[int], None] | None = None,
        generator: torch.Generator | None = None,
        persistent_workers: bool = False,
        **options: Any,
    ) -> None:
        if shuffle and (sampler is not None or batch_sampler is not None):
            raise DataError("shuffle=True contradicts a sampler: give one of them.")
        if isinstance(dataset, SeededItems):  # Lightning creates a loader again from the attributes of this one
            dataset = dataset.dataset
        self.seed, self.seeded_items, self.replay = seed, seeded_items, replay
        self._handed_out = 0
        self._lag, self._epoch_is_over = 0, False
        self._deliveries: Deliveries | None = None
        options |= {
            "num_workers": num_workers,
            "worker_init_fn": workers.init_fn(worker_init_fn),
            # Creating an iterator draws a number, which must not come from the generator of the training.
            "generator": generator or torch.Generator().manual_seed(mix_seed(seed)),
            "persistent_workers": persistent_workers and num_workers > 0,
        }
        if isinstance(dataset, IterableDataset):
            self._init_iterable(dataset, batch_size, collate_fn, options)
        else:
            self._init_map(dataset, batch_size, shuffle, sampler, batch_sampler, {**options, "collate_fn": collate_fn})

    def _init_map(
        self, dataset: Any, batch_size: int | None, shuffle: Any, sampler: Any, batch_sampler: Any, options: Any
    ) -> None:
        items: Dataset[Any] = SeededItems(dataset, self.seed) if self.seeded_items else dataset
        if batch_sampler is not None:
            order = self._ordered(batch_sampler)
            super().__init__(items, batch_sampler=order, **options)
            object.__setattr__(self, "sampler", order)  # where Lightning looks for it; torch refuses a plain assignment
            return
        if sampler is None:
            order = EpochSampler(len(dataset), seed=self.seed, shuffle=bool(shuffle), keyed=self.seeded_items)
        else:
            order = self._ordered(sampler)
        super().__init__(items, batch_size, sampler=order, **options)

    def _ordered(self, sampler: Any) -> Order:
        if isinstance(sampler, Order):
            return sampler
        return SeededOrder(sampler, seed=self.seed, keyed=self.seeded_items)

    def _init_iterable(
        self, dataset: IterableDataset[Any], batch_size: int | None, collate_fn: Any, options: dict[str, Any]
    ) -> None:
        # A worker lives for one epoch: that is how the epoch and the start reach it.
        options["persistent_workers"] = False
        if is_stateful(dataset) and not self.replay and batch_size is not None:
            self._deliveries = Deliveries()
            batches = StatefulBatches(dataset, batch_size, bool(options.pop("drop_last", False)))
            collate = partial(_collate_pair, collate_fn or default_collate)
            super().__init__(batches, batch_size=None, collate_fn=collate, **options)
        else:
            super().__init__(dataset, batch_size, collate_fn=collate_fn, **options)
        object.__setattr__(self, "sampler", NoOrder())

    # Batches

    def __iter__(self) -> Any:
        order = self._order
        order.next_cycle()
        self._handed_out = order.start // self._items_per_batch
        if not isinstance(self.dataset, IterableDataset):
            return self._hand_out(super().__iter__())
        order.start = 0
        if callable(set_epoch := getattr(self._source, "set_epoch", None)):
            set_epoch(order.epoch)
        if self._deliveries is None:
            return self._hand_out(super().__iter__())
        assert isinstance(self.dataset, StatefulBatches)
        self.dataset.start = self._deliveries.begin()
        pairs = super().__iter__()
        self.dataset.start = None  # a worker took its copy along; this one must not reach the worker of the next epoch
        return self._hand_out(self._keep_states(pairs))

    def _hand_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._handed_out += 1
            yield batch
        self._order.exhausted = True

    def _keep_states(self, pairs: Iterator[Any]) -> Iterator[Any]:
        assert self._deliveries is not None
        for batch, state in pairs:
            self._deliveries.add(state)
            yield batch

    @property
    def _order(self) -> Order:
        assert isinstance(self.sampler, Order)
        return self.sampler

    @property
    def _source(self) -> Any:
        """The dataset that was given."""
        wrapped = isinstance(self.dataset, (SeededItems, StatefulBatches))
        return self.dataset.dataset if wrapped else self.dataset  # type: ignore[attr-defined]

    @property
    def _items_per_batch(self) -> int:
        return 1 if self.batch_size is None else int(self.batch_size)

    # Position

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator. Lightning does so by itself."""
        self._order.set_epoch(epoch)

    def at_boundary(self, lag: int, epoch_is_over: bool) -> None:
        """Prepare `state_dict` for a boundary of the training.

        Args:
            lag: Batches handed out but not trained on: Lightning fetches one ahead if the data has no length.
            epoch_is_over: The next batch is the first one of the next epoch.
        """
        self._lag, self._epoch_is_over = lag, epoch_is_over

    def check_resumable(self) -> None:
        """Check that training on this loader can be resumed.

        Raises:
            DataError: The position in an iterable dataset cannot be saved.
        """
        if not isinstance(self.dataset, IterableDataset) or self.replay:
            return
        name, world_size = type(self._source).__name__, rank_and_world_size()[1]
        if self._deliveries is None:
            raise DataError(
                f"The position in the iterable {name} cannot be saved, because it has no state_dict() and"
                " load_state_dict(): give it these two, or set replay=true to let it start again from its beginning"
                " after a resume."
            )
        if self.num_workers > 1 or world_size > 1:
            raise DataError(
                f"The iterable {name} can be resumed exactly with at most one worker in one process, and there are"
                f" {self.num_workers} workers in {world_size}, each with a position of its own: set replay=true to"
                " do without exact resumes."
            )

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a checkpoint and its resume; an iterable has no `num_samples`."""
        identity = {"batch_size": self._batch_size, "seed": self.seed, "world_size": rank_and_world_size()[1]}
        return identity if isinstance(self.dataset, IterableDataset) else identity | {"num_samples": len(self._source)}

    @property
    def _batch_size(self) -> int | None:
        return self.dataset.batch_size if isinstance(self.dataset, StatefulBatches) else self.batch_size

    def state_dict(self) -> dict[str, Any]:
        """Return the identity, and the position after the batches that were *trained on*, as plain values."""
        order = self._order
        epoch, cycle, batch = order.epoch, order.cycle, max(0, self._handed_out - self._lag)
        if self._epoch_is_over:
            epoch, cycle, batch = epoch + 1, 0, 0
        state = self.identity() | {"epoch": epoch, "cycle": cycle, "batch": batch}
        if self._deliveries is not None:
            state["dataset"] = self._deliveries.after(batch) if batch else None
        if isinstance(order, SeededOrder) and order.is_stateful:
            state["sampler"] = order.sampler.state_dict() if self._epoch_is_over else order.state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iterator, and only that one, start at a saved position.

        Raises:
            DataError: The position belongs to other data; the message names all differences.
        """
        epoch, batch, dataset = state_dict["epoch"], state_dict["batch"], state_dict.get("dataset")
        now, changes = self.identity(), []
        for key, value in now.items():
            if key in state_dict and state_dict[key] != value:
                changes.append(f"{key} was {state_dict[key]!r} and is {value!r}")
        if self._deliveries is not None and batch and dataset is None:
            changes.append("the position of the iterable was not saved and is needed")
        if changes:
            raise DataError(
                f"The checkpoint stands at batch {batch} of epoch {epoch} of other data: {', '.join(changes)}. Set"
                " that back, or start a new run from the weights alone."
            )
        self._handed_out = batch
        self._order.seek(epoch, batch * self._items_per_batch, state_dict.get("cycle", 0))
        if self._deliveries is not None:
            self._deliveries.seek(batch, dataset)
        elif isinstance(self.dataset, IterableDataset) and batch:
            warnings.warn(
                f"{type(self._source).__name__} starts again from its beginning (replay=true): this resume repeats"
                f" {batch} batches and skips others.",
                stacklevel=2,
            )
        if isinstance(self._order, SeededOrder) and state_dict.get("sampler") is not None:
            self._order.load_state(state_dict["sampler"])


def _collate_pair(collate: Callable[[list[Any]], Any], pair: tuple[list[Any], Any]) -> tuple[Any, Any]:
    samples, state = pair
    return collate(samples), state
