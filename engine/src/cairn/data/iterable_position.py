"""Position of a loader with an iterable dataset."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from cairn.data import parallel
from cairn.data.copies import OUTSIDE, other_after_state, outside
from cairn.data.iterable import UNMOVED, Deliveries, StatefulBatches
from cairn.data.iterable_faults import about, unmoved
from cairn.data.passes import Pass
from cairn.data.position import Position
from cairn.data.sampler import Order, rank_and_world_size
from cairn.data.shuffle_buffers import known_shuffle
from cairn.errors import DataError


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
        self._sought: tuple[int, Any] = (0, None)
        self._pass.deliveries = Deliveries()
        self._is_checked = self._is_reported = self._is_tried = False

    @property
    def _name(self) -> str:
        return type(self._dataset).__name__

    def iterate(self, create: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        self._begin_epoch()
        if self._batches is None:
            self.order.start = 0
            return super().iterate(create)
        deliveries, self._sought = Deliveries(*self._sought), (0, None)
        return self._iterate_from(deliveries, create)

    def _begin_epoch(self) -> None:
        self.order.next_cycle()
        if callable(set_epoch := getattr(self._dataset, "set_epoch", None)):
            set_epoch(self.order.epoch)

    def _iterate_from(self, deliveries: Deliveries, create: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        assert self._batches is not None
        with self.order.pinned() as record:
            self._batches.begin(deliveries.start, record.turn)
            batches = self._checked(deliveries, deliveries.record(create()))
            # A worker took its copy: this start must not reach the next epoch's worker.
            self._batches.begin((0, None), 0)
        record.start, record.is_started = deliveries.start[0], True
        return self._counted(batches, Pass(self.order, record, 1, deliveries))

    def state(self) -> dict[str, Any]:
        state = super().state()
        if self._batches is not None and self._pass.deliveries is not None:
            state |= self._pass.deliveries.at(state["batch"])
        return state

    def check_resumable(self, num_workers: int, is_tried: bool) -> None:
        """Check that a resume can continue from this position.

        Args:
            num_workers: Number of processes that load.
            is_tried: Whether a position of the same kind was tried before.

        Raises:
            DataError: The position cannot be saved.
        """
        if self._batches is None:
            is_web = type(self._dataset).__module__.partition(".")[0] in ("webdataset", "wids")
            others = "Hugging Face datasets, which have them, or with the StreamingDataLoader of litdata"
            instead = f", or read the files with {others}" if is_web else ""
            raise DataError(
                f"The position in the iterable {self._name} cannot be saved, because it has no state_dict() and"
                f" load_state_dict(): give it these two{instead}, or set replay=True to let it start again from its"
                f" beginning after a resume.",
                parameter="replay",
            )
        self._check_layout(num_workers)
        if shuffle := known_shuffle(self._dataset):
            raise DataError(
                f"The iterable {self._name} shuffles with {shuffle}, and its state_dict() does not hold that buffer: a"
                f" resumed run would skip the samples in it. Shuffle without a buffer (the order of the files, or a"
                f" map-style dataset with cairn.DataLoader(shuffle=True)), or set replay=True to do without exact"
                f" resumes.",
                parameter="replay",
            )
        self._is_checked = True
        if self._pass.deliveries is not None:
            self._report(self._pass.deliveries.fault)
        is_due = not (is_tried or self._is_tried or self._is_reported)
        self._is_tried = True  # a trial opens the data again
        if is_due and (why := self._trial()):
            self._is_reported = True
            text = (
                f"A copy of {self._name} that is loaded with the state after its second batch yields other samples than"
                f" one that goes on: its state_dict() does not hold all that it depends on, such as a buffer, and a"
                f" resumed run trains on other samples. Save it in state_dict()."
            )
            warnings.warn(outside(f"a sample of {self._name} {OUTSIDE}") if why == OUTSIDE else text, stacklevel=2)

    def _check_layout(self, num_workers: int) -> None:
        """Check that the position is known with this number of workers and processes."""
        world_size = parallel.share(*rank_and_world_size())[1]
        if num_workers > 1 or world_size > 1:
            is_node = type(self._dataset).__module__.startswith("torchdata.nodes")
            instead = "" if is_node else " give it shard(num_shards, index), which returns a part of it, or"
            raise DataError(
                f"The iterable {self._name} can be resumed exactly with at most one worker in one process, and there"
                f" are {num_workers} workers in {world_size}, each with a position of its own:{instead} set"
                f" replay=True to do without exact resumes.",
                parameter="replay",
            )

    def _trial(self) -> str:
        """See `other_after_state`."""
        assert self._batches is not None
        return other_after_state(self._batches)

    def _checked(self, deliveries: Deliveries, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches; report a fault of the first one before it is used, if the loader is trained on."""
        for batch in batches:
            if deliveries.fault and self._is_checked:
                self._report(deliveries.fault)
            yield batch

    def _report(self, fault: str) -> None:
        if fault == UNMOVED:
            raise unmoved(self._name)
        if fault and not self._is_reported:
            self._is_reported = True
            warnings.warn(about(fault, self._name), stacklevel=2)

    def _missing(self, state: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
        if self._batches is not None and state["batch"] and state.get("dataset") is None:
            return ["the position of the iterable was not saved and is needed"]
        return []

    def rewind(self) -> None:
        super().rewind()
        self._sought = (0, None)

    def seek(self, state: Mapping[str, Any]) -> None:
        super().seek(state)
        if self._batches is not None:
            self._sought = (state["batch"], state.get("dataset"))
            self._pass.deliveries = Deliveries(*self._sought)
        elif state["batch"]:
            warnings.warn(
                f"{self._name} starts again from its beginning (replay=True): this resume repeats"
                f" {state['batch']} batches and skips others.",
                stacklevel=3,  # the caller of `DataLoader.load_state_dict`
            )
