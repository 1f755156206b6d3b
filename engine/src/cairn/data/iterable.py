"""Decides where an iterable training set stands: its state travels with every batch that it hands out.

The dataset itself runs ahead of the training: Lightning fetches one batch in advance when there is no length,
and a worker several. So the state is taken right after each batch was read, wherever that happens, and kept
beside it.
"""

import copy
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from torch.utils.data import IterableDataset

State = dict[str, Any]

_KEPT = 16  # states of the latest batches; the trainer is one batch behind, seldom more


def is_stateful(dataset: object) -> bool:
    """Does the dataset offer `state_dict()` and `load_state_dict()`?"""
    return all(callable(getattr(dataset, name, None)) for name in ("state_dict", "load_state_dict"))


class StatefulBatches(IterableDataset[Any]):
    """Batches of a stateful iterable, each with the state that the dataset has after it.

    What the dataset has to keep to: `iter()` begins at the head of the epoch (the one last given to
    `set_epoch`, if it has that), except right after `load_state_dict(state)`: then it goes on with the sample
    after that state.

    Yields (list of samples, state); the state is a copy, so a dataset may go on changing its own.
    """

    def __init__(self, dataset: IterableDataset[Any], batch_size: int, drop_last: bool = False) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.start: State | None = None  # for the next iterator; a worker's copy takes it along

    def __len__(self) -> int:
        """Batches of an epoch; TypeError, as without a length, if the dataset has none."""
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
        # A generator takes its position at its first step. After the last batch of an epoch nobody would ask
        # for one, and the next epoch would go on from here instead of beginning at its head.
        return chain(list(islice(batches, 1)), batches)

    def _batches(self, samples: Iterator[Any]) -> Iterator[tuple[list[Any], State]]:
        while batch := list(islice(samples, self.batch_size)):
            # A short batch met the end, and a dataset may by then have rewound itself for the next epoch.
            ended = len(batch) < self.batch_size
            if ended and self.drop_last:
                return
            state = self.dataset.state_dict()  # type: ignore[attr-defined]
            yield batch, {"ended": ended, "dataset": copy.deepcopy(state)}


class Deliveries:
    """The states that came with the latest batches, by the number of batches of the epoch."""

    def __init__(self) -> None:
        self._start: tuple[int, State | None] = (0, None)
        self._states: dict[int, State | None] = {0: None}

    def seek(self, batch: int, state: State | None) -> None:
        """Let only the next iterator go on after `batch` batches, where the dataset had `state`."""
        self._start = (batch, state)
        self._states = {batch: state}

    def begin(self) -> State | None:
        """A new iterator is made: forget the old one, and return the state that this one starts from."""
        (batch, state), self._start = self._start, (0, None)
        self._states = {batch: state}
        return state

    def add(self, state: State) -> None:
        """One more batch was handed out; `state` came with it."""
        newest = max(self._states)
        self._states[newest + 1] = state
        self._states.pop(newest + 1 - _KEPT, None)

    def after(self, batch: int) -> State | None:
        """The state after `batch` batches of this epoch; None is the head of the epoch.

        Raises:
            RuntimeError: if that batch was never handed out, or too long ago.
        """
        if batch not in self._states:
            known = f"{min(self._states)} to {max(self._states)}"
            raise RuntimeError(f"The data's state after batch {batch} is not known, only those after {known}.")
        return self._states[batch]
