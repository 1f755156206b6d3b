"""Position of an iterable training set: each batch carries the state that the dataset has after it.

The dataset runs ahead of the training: Lightning prefetches one batch if there is no length, and a worker prefetches
several. So the state is copied in the process that reads a batch, right after reading it, and sent along with it.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import Any

from torch.utils.data import IterableDataset

from cairn.data.generators import Generators
from cairn.data.seeding import mix_seed, seeded
from cairn.data.shuffle_buffers import Held, containers, lost
from cairn.data.trial import differ
from cairn.data.wrapped import Wrapped
from cairn.errors import DataError

State = dict[str, Any]

FAULT = "fault"
"""Key of why the state that came with a batch is not a position."""
UNMOVED = "unmoved"
"""A fault: the state is the same after the first and after the second batch."""
GENERATOR = "generator "
"""Beginning of a fault: the state does not hold the generator whose path follows."""
KEPT = 16
"""Number of latest batches whose states are kept. The trainer is usually one batch behind."""


def is_stateful(dataset: object) -> bool:
    """Whether the dataset has `state_dict()` and `load_state_dict()`."""
    return all(callable(getattr(dataset, name, None)) for name in ("state_dict", "load_state_dict"))


def is_iterable(dataset: Any) -> bool:
    """Whether a dataset is iterable: also one that is not an `IterableDataset`, such as a loader of torchdata.nodes.

    Raises:
        DataError: It is a node without a state that can be loaded.
    """
    if isinstance(dataset, IterableDataset):
        return True
    if hasattr(dataset, "__getitem__") or not hasattr(dataset, "__iter__"):
        return False
    if not is_stateful(dataset) and any(
        kind.__module__.startswith("torchdata.nodes") for kind in type(dataset).__mro__
    ):
        raise DataError(
            f"The position in the node {type(dataset).__name__} cannot be saved, because it has no load_state_dict():"
            f" wrap it in torchdata.nodes.Loader."
        )
    return is_stateful(dataset)


class StatefulBatches(Wrapped, IterableDataset[Any]):
    """Batches of a stateful iterable, each with the state that the dataset has after it.

    The dataset must behave as follows: `iter()` starts at the beginning of the epoch (the one last passed to
    `set_epoch`, if there is such a method). Right after `load_state_dict(state)`, it continues with the sample after
    that state instead.

    An iterator yields pairs (list of samples, state). The state is a copy: the dataset may change its own. Before each
    batch, the global generators are seeded from (seed, epoch, number of the batch), and restored afterwards: what the
    dataset draws is then the same after a resume, and in a worker.

    Args:
        dataset: Has `state_dict()` and `load_state_dict()`.
        batch_size: Samples per batch; None: each item of the dataset is a batch.
        drop_last: Drop the last batch of an epoch if it is smaller.
        seed: Seed of what the dataset draws; None: the global generators are left alone.
    """

    _OWN = frozenset({"wrapped", "batch_size", "drop_last", "seed", "last_seed", "_start", "_turn", "_drawn"})

    def __init__(
        self, dataset: IterableDataset[Any], batch_size: int | None, drop_last: bool = False, seed: int | None = None
    ) -> None:
        self.wrapped = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.last_seed = 0
        """Seed of the last batch, for its collate function."""
        self._start: tuple[int, Any] = (0, None)
        self._turn = 0
        self._drawn: list[Any] | None = None  # states of the dataset's own generators after the first batch

    def begin(self, start: tuple[int, State | None], turn: int) -> None:
        """Make the next iterator, and only that one, start at a position. A worker gets a copy of it.

        Args:
            start: Number of batches before the start, and the state after them; None: the beginning of the epoch.
            turn: A number that identifies epoch and cycle.
        """
        self._start, self._turn = start, turn

    def start_after(self, pairs: list[tuple[Any, Any]]) -> tuple[int, Any]:
        """Return the start, for `begin`, after the first batches of an epoch with their states."""
        return len(pairs), pairs[-1][1]

    def __len__(self) -> int:
        """Number of batches of an epoch; raises TypeError if the dataset has no length."""
        num_samples = len(self.wrapped)
        if self.batch_size is None:
            return num_samples
        return num_samples // self.batch_size if self.drop_last else -(-num_samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, State]]:
        (number, start), self._start = self._start, (0, None)
        if start is not None and start["ended"]:
            return iter(())
        if start is not None:
            self.wrapped.load_state_dict(start["dataset"])
        with self._seeded(mix_seed(self.seed or 0, self._turn)):
            samples = iter(self.wrapped)
        batches = self._batches(samples, self._turn, number)
        # A generator reads the loaded position only when its first item is drawn. At the end of an epoch no item is
        # drawn, and the next epoch would continue from this position. So draw the first batch now.
        return batches if start is None else chain(list(islice(batches, 1)), batches)

    def _batches(self, samples: Iterator[Any], turn: int, number: int) -> Iterator[tuple[Any, State]]:
        first, empty = number == 0, containers(self.wrapped) if number == 0 else {}
        previous = None
        while True:
            number += 1
            self.last_seed = mix_seed(self.seed or 0, turn, number)
            with self._seeded(self.last_seed):
                batch = list(islice(samples, self.batch_size or 1))
            # A short batch means that the dataset has reached its end, and may already have rewound itself.
            ended = len(batch) < (self.batch_size or 1)
            if not batch or (ended and self.drop_last):
                return
            state = {"ended": ended, "dataset": self._state()}
            if first and number <= 2 and (fault := self._fault(state, previous, empty, samples)):
                state[FAULT] = fault
            previous = state["dataset"]
            yield (batch if self.batch_size is not None else batch[0]), state

    def _fault(self, state: State, previous: Any, empty: Held, samples: Iterator[Any]) -> str:
        """Return why the state is not a position, after one of the first two batches; '' if nothing is wrong."""
        if previous is not None and not state["ended"] and not differ(previous, state["dataset"]):
            return UNMOVED
        return lost(empty, containers(self.wrapped, samples), state) or self._lost_generator(state["dataset"])

    def _lost_generator(self, state: Any) -> str:
        """Return `GENERATOR` and the path of one that the second batch draws from and the state does not hold."""
        generators = Generators(**{type(self.wrapped).__name__: self.wrapped})
        before, self._drawn = self._drawn, generators.states()
        if before is None or not differ(before, self._drawn):
            return ""
        generators.seed(self.last_seed)
        other = self._state()
        generators.set_states(self._drawn)
        return "" if differ(other, state) else f"{GENERATOR}{generators.paths[0]}"

    def _state(self) -> Any:
        return copy.deepcopy(self.wrapped.state_dict())

    def _seeded(self, seed: int) -> AbstractContextManager[None]:
        """Seed the global generators for what the dataset draws, so that a resume draws the same; if that is wanted."""
        return nullcontext() if self.seed is None else seeded(seed)


class Deliveries:
    """States that came with the latest batches of an iterator, by the number of batches in the epoch so far.

    Args:
        batch: Number of batches of the epoch before the start.
        state: State of the dataset after them; None: the beginning of the epoch.
    """

    def __init__(self, batch: int = 0, state: State | None = None) -> None:
        self.start: tuple[int, Any] = (batch, state)
        self._states: dict[int, State | None] = {batch: state}
        self.fault = ""
        """Why the states are not positions: `UNMOVED`, or the path of a buffer that they leave out."""

    def add(self, state: State) -> None:
        """Record the state that came with the next batch."""
        self.fault = state.pop(FAULT, self.fault)
        newest = max(self._states)
        self._states[newest + 1] = state
        self._states.pop(newest + 1 - KEPT, None)

    def record(self, pairs: Iterator[tuple[Any, State]]) -> Iterator[Any]:
        """Yield the batches of pairs (batch, state), and record the states."""
        for batch, state in pairs:
            self.add(state)
            yield batch

    def at(self, batch: int) -> dict[str, Any]:
        """Return what a position after `batch` batches of this epoch holds of the dataset, see `after`."""
        return {"dataset": self.after(batch) if batch else None}

    def after(self, batch: int) -> State | None:
        """Return the state after `batch` batches of this epoch; None is the beginning of the epoch.

        Raises:
            RuntimeError: This batch was not handed out, or too long ago.
        """
        if batch not in self._states:
            known = f"{min(self._states)} to {max(self._states)}"
            raise RuntimeError(
                f"The state of the data after batch {batch} is not known, only the states after batches {known}."
            )
        return self._states[batch]
