"""Position of a loader whose iterable is divided into substreams: a number of global batches, and their states."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset

from cairn.data.copies import other_after_state
from cairn.data.divided import DividedBatches, check_shards
from cairn.data.iterable import Deliveries
from cairn.data.iterable_position import IterablePosition
from cairn.data.position import BetweenEpochs
from cairn.data.sampler import Order
from cairn.data.substreams import Division, StreamedBatches
from cairn.data.window_deliveries import NUMBER, SUBSTREAMS, WindowDeliveries

log = logging.getLogger(__name__)


class DividedPosition(IterablePosition):
    """Position of a loader with an iterable that has `shard()`.

    It is read as one stream, as in `IterablePosition`, by at most one worker in one process without global batches, and
    in a validation: Lightning validates without gradients.

    Args:
        order: Counts epochs and cycles.
        dataset: The dataset that was given.
        batches: Its batches.
        num_workers: Number of processes that load; 0: the main process.
        global_batch_size: Samples in a global batch; None: each process has batches of its own.
        num_batches: Batches in a global batch; None: one of each process.
    """

    def __init__(
        self,
        order: Order,
        dataset: IterableDataset[Any],
        batches: DividedBatches,
        num_workers: int,
        global_batch_size: int | None = None,
        num_batches: int | None = None,
    ) -> None:
        super().__init__(order, 1, dataset, batches)
        self._divided, self._num_workers = batches, num_workers
        self._size, self._num_batches = global_batch_size, num_batches
        self.num_substreams: int | None = None
        """Those of the run, once it is known how many there are."""
        self.has_virtual_ranks = False  # see `Dealing`
        self._sought_window: tuple[int, Mapping[int, Any] | None] = (0, None)
        self._shards_checked = self._left_reported = False

    @property
    def division(self) -> Division:
        """How the substreams are divided.

        Raises:
            DataError: They cannot be divided among these processes.
        """
        return self._division_of(self.num_substreams)

    def _division_of(self, num_substreams: int | None) -> Division:
        rank, world_size = self.order.processes()
        num_batches = self._num_batches or world_size
        number = num_substreams or num_batches * max(1, self._num_workers)
        return Division(num_batches, number, rank, world_size, self.has_virtual_ranks)

    @property
    def is_divided(self) -> bool:
        return torch.is_grad_enabled() and self._is_divided_in_training

    @property
    def _is_divided_in_training(self) -> bool:
        return self._num_batches is not None or self.division.num_substreams > 1

    @property
    def global_batches(self) -> StreamedBatches | None:
        return None if self._size is None else StreamedBatches(self._size, self.division)

    def iterate(self, create: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        if not self.is_divided:
            return super().iterate(create)
        self._begin_epoch()
        division, (window, states) = self.division, self._sought_window
        division.check_workers(self._num_workers)
        if not self._shards_checked:
            check_shards(self._dataset, division)
            self._shards_checked = True
        self.num_substreams, self._sought_window = division.num_substreams, (0, None)
        deliveries = WindowDeliveries(division, window, states, self._divided.batch_size or 1)
        self._divided.divide(division, self.order.epoch)
        try:
            return self._iterate_from(deliveries, create)
        finally:
            self._divided.divide(None)

    def _check_layout(self, num_workers: int) -> None:
        """Do nothing: a checkpoint may say how many substreams there are, which is checked when they are read."""

    def _trial(self) -> str:
        if not self.is_divided:
            return super()._trial()
        trial = self.division.with_few()  # but not one substream alone: they may share a state
        self._divided.divide(trial, self.order.epoch)
        try:
            return other_after_state(self._divided, num_before=len(trial.own))
        finally:
            self._divided.divide(None)

    def _checked(self, deliveries: Deliveries, batches: Iterator[Any]) -> Iterator[Any]:
        yield from super()._checked(deliveries, batches)
        if not isinstance(deliveries, WindowDeliveries) or self._left_reported:
            return
        self._left_reported = True
        if deliveries.num_left and deliveries.division.rank == 0:
            log.info(
                "The epoch ends after %d global batches, because one of the %d substreams of %s has no complete batch"
                " left. At least %d samples are left out: files of equal size leave out the fewest.",
                deliveries.num_windows,
                deliveries.division.num_substreams,
                type(self._dataset).__name__,
                deliveries.num_left,
            )

    @property
    def _batch(self) -> int:
        """Global batches of the cycle that were trained on; 0 if the epoch is over."""
        deliveries = self._pass.deliveries
        per_window = deliveries.division.per_window if isinstance(deliveries, WindowDeliveries) else 1
        return super()._batch // per_window

    def state(self) -> dict[str, Any]:
        state = super().state()
        if (
            not isinstance(self._pass.deliveries, WindowDeliveries)
            and not state["batch"]
            and self._is_divided_in_training
        ):
            state = {**state, **WindowDeliveries(self.division).at(0)}
            state.pop("dataset", None)
        return state

    def _missing(self, state: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
        number = number_of(state)
        if number is None:
            if self._is_divided_in_training and NUMBER not in state:
                return ["it was read by at most one worker in one process, without global_batch_size"]
            return super()._missing(state, identity)
        division = self._division_of(number)
        if number % division.num_batches:
            return [f"it was read as {number} substreams, which {division.num_batches} batches cannot share"]
        division.check_workers(self._num_workers)
        window, states = state["batch"], state[SUBSTREAMS]
        lost = [one for one in division.own if division.num_before(one, window) > 0 and one not in states]
        return [f"the positions of substreams {', '.join(map(str, lost))} were not saved"] if lost else []

    def rewind(self) -> None:
        super().rewind()
        self._sought_window = (0, None)

    def seek(self, state: Mapping[str, Any]) -> None:
        self.num_substreams, self._sought_window = number_of(state), (0, None)
        if self.num_substreams is None:
            super().seek(state)
            return
        division, window, states = self.division, state["batch"], state[SUBSTREAMS]
        super().seek({**state, "batch": window * division.per_window})
        self._sought, self._sought_window = (0, None), (window, states)
        self._pass.deliveries = WindowDeliveries(division, window, states)


def number_of(state: Mapping[str, Any]) -> int | None:
    """Return the number of substreams of the run that a position belongs to; None: it has one stream, or has ended."""
    if isinstance(state, BetweenEpochs) and not state.goes_on:  # a new run follows its own configuration
        return None
    number: int | None = state.get(NUMBER)
    return number
