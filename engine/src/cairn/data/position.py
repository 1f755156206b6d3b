"""Position of a loader: what a checkpoint saves of it, and how the next iterator starts there."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.data import shuffles
from cairn.data.generators import Generators
from cairn.data.global_batches import GlobalBatches
from cairn.data.passes import CountedBatches, OwnBatches, OwnPass, Pass
from cairn.data.record import Record
from cairn.data.sampler import EpochSampler, Order
from cairn.data.seeded_order import SeededOrder
from cairn.data.substreams import StreamedBatches
from cairn.errors import DataError

log = logging.getLogger(__name__)


class BetweenEpochs(dict[str, Any]):
    """State of a loader or a datamodule in a checkpoint that lies between two epochs: other data may follow."""

    goes_on = True
    """Whether the same run goes on; False: a new run starts from there, with its own data."""


Create: TypeAlias = Callable[[], Iterator[Any]]


def between_epochs(state: Any) -> Any:
    """Return a state that was saved between two epochs with a mark, if it is of a `cairn.DataLoader` or DataModule.

    Of the values of another one nothing changes but the class, if it has the same names.

    Args:
        state: A value in a checkpoint.
    """
    is_ours = type(state) is dict and "seed" in state and not {"batch_size", "global_batch_size"}.isdisjoint(state)
    is_inside = is_ours and (state.get("batch") or state.get("repeated"))
    return BetweenEpochs(state) if is_ours and not is_inside else state


def keep_way(order: Order, state: Mapping[str, Any]) -> None:
    """Shuffle in the way of a saved position, in its epoch and in those that follow."""
    if isinstance(order, EpochSampler):
        order.keep_way(state.get("order", shuffles.OLDEST))


def _judge(changes: Sequence[str], state: Mapping[str, Any]) -> None:
    """Refuse other data than the position was saved with; between two epochs, only log the differences."""
    if not changes:
        return
    differences = ", ".join(changes)
    if not isinstance(state, BetweenEpochs):
        raise DataError(
            f"The checkpoint stands at batch {state.get('repeated', state['batch'])} of epoch {state['epoch']} of other"
            f" data: {differences}. Set that back, or start a new run from the weights alone."
        )
    text = f"Epoch {state['epoch']} begins with other data than before: {differences}."
    if state.goes_on:
        rank_zero_warn(f"{text} A run without this change ends differently.")
    else:  # it follows its configuration
        log.info(text)


class Undivided:
    """Base class of positions: without global batches, and without substreams."""

    @property
    def global_batches(self) -> GlobalBatches | StreamedBatches | None:
        """The global batches, and this process's share; None if there are none."""
        return None

    @property
    def is_divided(self) -> bool:
        """Whether an iterable is read as substreams, so that its length says nothing about the number of batches."""
        return False


class Position(Undivided):
    """Epoch, cycle and batch of a loader with a map-style dataset, and the state of its sampler, if it has one.

    Args:
        order: Order of the items, with its own epoch and cycle.
        items_per_batch: Items of the order in a batch.
    """

    def __init__(self, order: Order, items_per_batch: int) -> None:
        self.order = order
        self._items_per_batch = int(items_per_batch)
        self._pass = Pass(order, Record(), self._items_per_batch)
        self._lag, self._epoch_is_over = 0, False
        self._is_sought = False
        self._first_size: int | None = None
        self._has_grown = False
        self._inside: list[OwnPass] = []  # while the code of a subclass iterates
        self._num_repeated = 0

    @property
    def has_grown(self) -> bool:
        """Whether the dataset has another size than at the beginning of the run."""
        first, order = self._first_size, self.order
        return self._has_grown or (first is not None and isinstance(order, EpochSampler) and order.size_now != first)

    def iterate(self, create: Create) -> Iterator[Any]:
        """Return the batches from this position on, and count them.

        Args:
            create: Creates torch's iterator of the batches.
        """
        order = self.order
        order.next_cycle()
        if isinstance(order, EpochSampler):
            self._note_size(order)
        self._is_sought = False
        with order.pinned() as record:
            batches = create()
        return self._counted(batches, Pass(order, record, self._items_per_batch))

    def iterate_as(self, create: Create, generators: Generators, seed: int | None) -> Iterator[Any]:
        """Return the batches that an `__iter__` of a subclass makes, and count them.

        It may skip batches, read ahead, or count: a resume reads the epoch from its beginning.

        Args:
            create: Calls it.
            generators: Those that the subclass owns.
            seed: Seed of what it draws, together with the number of the batch; None: the generators are left alone.
        """
        if self._inside:  # called by the `__iter__` of a subclass of that subclass
            return create()
        repeated, self._num_repeated = self._num_repeated, 0
        self.order.next_cycle()
        self._pass = counted = OwnPass(self.order, self.order.next_record(), self._items_per_batch)
        return OwnBatches(create, counted, self._inside, generators, seed, repeated)

    def _counted(self, batches: Iterator[Any], counted: Pass) -> Iterator[Any]:
        if self._inside:
            self._inside[0].inner.append(counted)
        else:
            self._pass = counted
        self._lag, self._epoch_is_over = 0, False
        return CountedBatches(batches, counted)

    def _note_size(self, order: EpochSampler) -> None:
        if not self._is_sought:
            order.restore_size(None)
        size = order.num_samples
        self._first_size = size if self._first_size is None else self._first_size
        self._has_grown |= size != self._first_size

    def at_boundary(self, lag: int, epoch_is_over: bool, iterator: Iterator[Any] | None) -> None:
        """See `DataLoader.at_boundary`."""
        self._lag, self._epoch_is_over = lag, epoch_is_over
        if isinstance(iterator, CountedBatches):
            self._pass = iterator.counted

    @property
    def _batch(self) -> int:
        """Batches of the cycle that were trained on; 0 if the epoch is over."""
        # An iterator that has reached its end has not handed out the batch that was fetched ahead: another one has.
        lag = 0 if self._pass.exhausted else self._lag
        return 0 if self._epoch_is_over else max(0, self._pass.handed_out - lag)

    def state(self) -> dict[str, Any]:
        """Return the position after the batches that were trained on, as plain values."""
        order, now = self.order, self._pass
        epoch, cycle = (now.record.epoch + 1, 0) if self._epoch_is_over else (now.record.epoch, now.record.cycle)
        state: dict[str, Any] = {"epoch": epoch, "cycle": cycle, "batch": self._batch}
        if isinstance(now, OwnPass) and self._batch:
            state |= {"batch": 0, "repeated": self._batch}
        if isinstance(order, SeededOrder) and order.is_stateful:
            if self._epoch_is_over:
                state["sampler"] = order.state_now(now.at_start)
            else:
                state |= {"sampler": now.at_start.sampler, "sampler_now": order.state_now(now.at_start)}
        if now.record.num_samples is not None and not self._epoch_is_over:
            state["epoch_samples"] = now.record.num_samples
        return state | ({"has_grown": True} if self.has_grown else {})

    def check_resumable(self, num_workers: int, is_tried: bool) -> None:
        """Check that a resume can continue from this position: in a map-style dataset it can; warn about samplers.

        Args:
            num_workers: Number of processes that load.
            is_tried: Whether a position of the same kind was tried before.
        """
        if isinstance(self.order, SeededOrder) and not is_tried:
            self.order.check()

    def check(self, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Check that a saved position belongs to this data.

        Between two epochs, other data is accepted: the next epoch is trained with it, and the differences are logged.

        Args:
            state: Saved position, and the identity of its data.
            identity: Identity of this data. A fact that was not saved is not compared.

        Raises:
            DataError: It belongs to other data; the message names all differences.
        """
        _judge(_changes(state, identity) + self._missing(state, identity), state)

    def _missing(self, state: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
        """Return what a saved position lacks, as parts of a sentence."""
        if state.get("epoch_samples", 0) > (now := identity.get("num_samples", math.inf)):
            return [f"the epoch began with {state['epoch_samples']} samples and there are {now}"]
        return []

    def rewind(self) -> None:
        """Make the next iterator start at the beginning of the first epoch."""
        self.order.seek(0, 0)
        self._is_sought, self._num_repeated = False, 0

    def seek(self, state: Mapping[str, Any]) -> None:
        """Make the next iterator, and only that one, start at a saved position."""
        order, epoch, cycle = self.order, state["epoch"], state.get("cycle", 0)
        order.seek(epoch, state["batch"] * self._items_per_batch, cycle)
        if isinstance(order, EpochSampler):
            order.restore_size(state.get("epoch_samples"))
        is_same = state.get("order") in (None, order.identity().get("order"))
        if isinstance(order, SeededOrder) and is_same and state.get("sampler") is not None:
            order.load_state(state["sampler"], state.get("sampler_now"))
        self._is_sought = True
        self._num_repeated = state.get("repeated", 0)
        self._has_grown = state.get("has_grown", False)
        self._counted(iter(()), Pass(order, order.next_record(), self._items_per_batch))
        self._pass.record.sampler = state.get("sampler")


def _changes(state: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    if "global_batch_size" in state and "global_batch_size" not in identity:
        return [f"global_batch_size was {state['global_batch_size']} and is not set"]
    return [
        f"{key} was {state[key]!r} and is {value!r}"
        for key, value in identity.items()
        if key in state and state[key] != value
    ]
