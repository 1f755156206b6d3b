"""Position of an iterable training set: each batch carries the state that the dataset has after it.

The dataset runs ahead of the training: Lightning prefetches one batch if there is no length, and a worker prefetches
several. So the state is copied in the process that reads a batch, right after reading it, and sent along with it.
"""

import copy
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from torch.utils.data import IterableDataset

State = dict[str, Any]

_KEPT = 16
"""Number of latest batches whose states are kept. The trainer is usually one batch behind."""


def is_stateful(dataset: object) -> bool:
    """Whether the dataset has `state_dict()` and `load_state_dict()`."""
    return all(callable(getattr(dataset, name, None)) for name in ("state_dict", "load_state_dict"))


class StatefulBatches(IterableDataset[Any]):
    """Batches of a stateful iterable, each with the state that the dataset has after it.

    The dataset must behave as follows: `iter()` starts at the beginning of the epoch (the one last passed to
    `set_epoch`, if there is such a method). Right after `load_state_dict(state)`, it continues with the sample after
    that state instead.

    An iterator yields pairs (list of samples, state). The state is a copy: the dataset may change its own.

    Args:
        dataset: Has `state_dict()` and `load_state_dict()`.
        batch_size: Samples per batch.
        drop_last: Drop the last batch of an epoch if it is smaller.
    """

    def __init__(self, dataset: IterableDataset[Any], batch_size: int, drop_last: bool = False) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.start: State | None = None
        """State in which the next iterator starts; None: at the beginning of the epoch. A worker gets a copy of it."""

    def __len__(self) -> int:
        """Number of batches of an epoch; raises TypeError if the dataset has no length."""
        num_samples = len(self.dataset)  # type: ignore[arg-type]
        return num_samples // self.batch_size if self.drop_last else -(-num_samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[list[Any], State]]:
        start, self.start = self.start, None
        if start is None:
            return self._batches(iter(self.dataset))
        if start["ended"]:
            return iter(())
        self.dataset.load_state_dict(start["dataset"])  # type: ignore[attr-defined]
        batches = self._batches(iter(self.dataset))
        # A generator reads the loaded position only when its first item is drawn. At the end of an epoch no item is
        # drawn, and the next epoch would continue from this position. So draw the first batch now.
        return chain(list(islice(batches, 1)), batches)

    def _batches(self, samples: Iterator[Any]) -> Iterator[tuple[list[Any], State]]:
        while batch := list(islice(samples, self.batch_size)):
            # A short batch means that the dataset has reached its end, and may already have rewound itself.
            ended = len(batch) < self.batch_size
            if ended and self.drop_last:
                return
            state = self.dataset.state_dict()  # type: ignore[attr-defined]
            yield batch, {"ended": ended, "dataset": copy.deepcopy(state)}


class Deliveries:
    """States that came with the latest batches, by the number of batches in the epoch so far."""

    def __init__(self) -> None:
        self._start: tuple[int, State | None] = (0, None)
        self._states: dict[int, State | None] = {0: None}

    def seek(self, batch: int, state: State | None) -> None:
        """Make the next iterator, and only that one, continue after a batch.

        Args:
            batch: Number of batches of the epoch so far.
            state: State of the dataset after them; None: the beginning of the epoch.
        """
        self._start = (batch, state)
        self._states = {batch: state}

    def begin(self) -> State | None:
        """Forget the previous iterator, and return the state in which a new one starts."""
        (batch, state), self._start = self._start, (0, None)
        self._states = {batch: state}
        return state

    def add(self, state: State) -> None:
        """Record the state that came with the next batch."""
        newest = max(self._states)
        self._states[newest + 1] = state
        self._states.pop(newest + 1 - _KEPT, None)

    def record(self, pairs: Iterator[tuple[Any, State]]) -> Iterator[Any]:
        """Yield the batches of pairs (batch, state), and record the states."""
        for batch, state in pairs:
            self.add(state)
            yield batch

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
