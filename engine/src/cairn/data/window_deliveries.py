"""Global batches of an iterable that is divided into substreams, and the states after each global batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cairn.data import complete
from cairn.data.complete import Window
from cairn.data.divided import LEFT, SUBSTREAM
from cairn.data.iterable import FAULT, KEPT, Deliveries
from cairn.data.substreams import Division
from cairn.errors import DataError

SUBSTREAMS = "substreams"
"""Key of the states of substreams in the state of a loader. Each process has those that it reads."""
NUMBER = "num_substreams"
"""Key of the number of all substreams."""


class WindowDeliveries(Deliveries):
    """States of the substreams of this process after the latest global batches of an iterator.

    Args:
        division: How the substreams are divided.
        window: Number of global batches of the epoch before the start.
        states: States of substreams after them; None: the beginning of the epoch.
        batch_size: Samples in a batch.
    """

    def __init__(
        self, division: Division, window: int = 0, states: Mapping[int, Any] | None = None, batch_size: int = 1
    ) -> None:
        super().__init__()
        self.start: tuple[int, Any] = (window * division.per_window, dict(states or {}))
        self.division, self._batch_size = division, batch_size
        self._window = window
        self._after = {window: dict(states or {})}
        self.num_left = 0
        """Samples that were read and are left out, once the iterator has ended."""
        self.num_windows = 0
        """Global batches of the epoch, once the iterator has ended."""

    def record(self, pairs: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
        """Yield the batches of pairs (batch, state) whose global batch is complete, and record the states."""
        windows = self._windows(pairs)
        number = self._window
        for window in windows if complete.is_alone() else complete.on_all(windows):
            if not window.is_complete:
                self.num_left, self.num_windows = window.num_left, number
                return
            number += 1
            yield from window.batches

    def _windows(self, pairs: Iterator[tuple[Any, Any]]) -> Iterator[Window]:
        per_window, number = self.division.per_window, self._window
        while True:
            batches, states = [], {**self._after[number]}
            for place in range(per_window):
                batch, state = next(pairs)
                if state[SUBSTREAM] != self.division.substream(number * per_window + place):
                    raise DataError(
                        "The workers deliver batches in another order than they are asked for them (in_order=False), so"
                        " that an epoch cannot be repeated: leave in_order out."
                    )
                self.fault = state.pop(FAULT, self.fault)
                if LEFT in state:
                    yield Window([], is_complete=False, num_left=place * self._batch_size + state[LEFT])
                    return
                batches.append(batch)
                states[state[SUBSTREAM]] = state["dataset"]
            number += 1
            self._after[number] = states
            self._after.pop(number - KEPT, None)
            yield Window(batches, is_complete=True, num_samples=per_window * self._batch_size)

    def at(self, batch: int) -> dict[str, Any]:
        if batch and batch not in self._after:
            raise RuntimeError(f"The state of the data after global batch {batch} is not known.")
        return {NUMBER: self.division.num_substreams, SUBSTREAMS: dict(self._after[batch]) if batch else {}}
