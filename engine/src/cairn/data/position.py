"""Position of a loader: what a checkpoint saves of it, and how the next iterator starts there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from cairn.data.iterable import Deliveries, StatefulBatches
from cairn.data.sampler import Order, SeededOrder, rank_and_world_size
from cairn.errors import DataError


class Position:
    """Epoch, cycle and batch of a loader with a map-style dataset, and the state of its sampler, if it has one.

    Args:
        order: Order of the items, with its own epoch and cycle.
        items_per_batch: Items of the order in a batch.
    """

    def __init__(self, order: Order, items_per_batch: int) -> None:
        self.order = order
        self._items_per_batch = items_per_batch
        self._handed_out = 0
        self._lag, self._epoch_is_over = 0, False

    def iterate(self, create: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Return the batches from this position on, and count them.

        Args:
            create: Creates torch's iterator of the batches.
        """
        self._begin()
        return self._counted(create())

    def _begin(self) -> None:
        self.order.next_cycle()
        self._handed_out = self.order.start // int(self._items_per_batch)

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._handed_out += 1
            yield batch
        self.order.exhausted = True

    def at_boundary(self, lag: int, epoch_is_over: bool) -> None:
        """See `DataLoader.at_boundary`."""
        self._lag, self._epoch_is_over = lag, epoch_is_over

    @property
    def _batch(self) -> int:
        """Batches of the cycle that were trained on; 0 if the epoch is over."""
        return 0 if self._epoch_is_over else max(0, self._handed_out - self._lag)

    def state(self) -> dict[str, Any]:
        """Return the position after the batches that were trained on, as plain values."""
        order = self.order
        epoch, cycle = (order.epoch + 1, 0) if self._epoch_is_over else (order.epoch, order.cycle)
        state: dict[str, Any] = {"epoch": epoch, "cycle": cycle, "batch": self._batch}
        if isinstance(order, SeededOrder) and order.is_stateful:
            state["sampler"] = order.sampler.state_dict() if self._epoch_is_over else order.state
        return state

    def check_resumable(self, num_workers: int) -> None:
        """Check that a resume can continue from this position: in a map-style dataset it always can.

        Args:
            num_workers: Number of processes that load.
        """

    def check(self, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Check that a saved position belongs to this data.

        Args:
            state: Saved position, and the identity of its data.
            identity: Identity of this data. A fact that was not saved is not compared.

        Raises:
            DataError: It belongs to other data; the message names all differences.
        """
        changes = [
            f"{key} was {state[key]!r} and is {value!r}"
            for key, value in identity.items()
            if key in state and state[key] != value
        ]
        changes += self._missing(state)
        if changes:
            raise DataError(
                f"The checkpoint stands at batch {state['batch']} of epoch {state['epoch']} of other data:"
                f" {', '.join(changes)}. Set that back, or start a new run from the weights alone."
            )

    def _missing(self, state: Mapping[str, Any]) -> list[str]:
        """Return what a saved position lacks, as parts of a sentence."""
        return []

    def seek(self, state: Mapping[str, Any]) -> None:
        """Make the next iterator, and only that one, start at a saved position."""
        self._handed_out = state["batch"]
        self.order.seek(state["epoch"], state["batch"] * int(self._items_per_batch), state.get("cycle", 0))
        if isinstance(self.order, SeededOrder) and state.get("sampler") is not None:
            self.order.load_state(state["sampler"])


class IterablePosition(Position):
    """Position of a loader with an iterable dataset, which has a state of its own or starts again from its beginning.

    Args:
        order: Counts epochs and cycles.
        items_per_batch: Items of the order in a batch.
        dataset: The dataset that was given.
        batches: Its batches, if they carry the state of the dataset; None: a resume starts the dataset again.
    """

    def __init__(
        self, order: Order, items_per_batch: int, dataset: IterableDataset[Any], batches: StatefulBatches | None
    ) -> None:
        super().__init__(order, items_per_batch)
        self._dataset = dataset
        self._batches = batches
        self._deliveries = Deliveries()

    @property
    def _name(self) -> str:
        return type(self._dataset).__name__

    def iterate(self, create: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        self._begin()
        self.order.start = 0
        if callable(set_epoch := getattr(self._dataset, "set_epoch", None)):
            set_epoch(self.order.epoch)
        if self._batches is None:
            return self._counted(create())
        self._batches.start = self._deliveries.begin()
        pairs = create()
        self._batches.start = None  # a worker took its copy along; this one must not reach the next epoch's worker
        return self._counted(self._deliveries.record(pairs))

    def state(self) -> dict[str, Any]:
        state = super().state()
        if self._batches is not None:
            state["dataset"] = self._deliveries.after(self._batch) if self._batch else None
        return state

    def check_resumable(self, num_workers: int) -> None:
        """Check that a resume can continue from this position.

        Args:
            num_workers: Number of processes that load.

        Raises:
            DataError: The position cannot be saved.
        """
        if self._batches is None:
            raise DataError(
                f"The position in the iterable {self._name} cannot be saved, because it has no state_dict() and"
                " load_state_dict(): give it these two, or set replay=True to let it start again from its beginning"
                " after a resume.",
                parameter="replay",
            )
        world_size = rank_and_world_size()[1]
        if num_workers > 1 or world_size > 1:
            raise DataError(
                f"The iterable {self._name} can be resumed exactly with at most one worker in one process, and there"
                f" are {num_workers} workers in {world_size}, each with a position of its own: set replay=True to do"
                " without exact resumes.",
                parameter="replay",
            )

    def _missing(self, state: Mapping[str, Any]) -> list[str]:
        if self._batches is not None and state["batch"] and state.get("dataset") is None:
            return ["the position of the iterable was not saved and is needed"]
        return []

    def seek(self, state: Mapping[str, Any]) -> None:
        super().seek(state)
        if self._batches is not None:
            self._deliveries.seek(state["batch"], state.get("dataset"))
        elif state["batch"]:
            warnings.warn(
                f"{self._name} starts again from its beginning (replay=True): this resume repeats"
                f" {state['batch']} batches and skips others.",
                stacklevel=3,  # the caller of `DataLoader.load_state_dict`
            )
