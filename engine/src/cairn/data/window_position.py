"""Position of a loader that deals out global batches: their number, which does not depend on processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cairn.data.global_batches import GlobalBatches
from cairn.data.position import Position
from cairn.data.sampler import Order


class WindowPosition(Position):
    """Epoch, cycle and global batch of a loader with a map-style dataset.

    Args:
        order: Order of the batches of this process.
    """

    def __init__(self, order: Order) -> None:
        super().__init__(order, 1)
        assert order.dealing is not None
        self._size = order.dealing.size

    @property
    def global_batches(self) -> GlobalBatches:
        """The global batches of the iteration that a checkpoint is about, and this process's share."""
        record = self._pass.record if self._pass.record.is_started else self.order.next_record()
        return GlobalBatches(self.order.windows_of(record), self.order.share)

    @property
    def _batch(self) -> int:
        """Global batches of the cycle that were trained on; 0 if the epoch is over."""
        return super()._batch // self.order.share.per_window

    def _missing(self, state: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
        found = super()._missing(state, identity)
        if self._windows_before(state) is None:
            before = state["batch_size"] * state["world_size"]
            found.append(f"a batch of all processes had {before} samples, and global_batch_size is {self._size}")
        return found

    def state(self) -> dict[str, Any]:
        """Return the position, and how many batches of each process Lightning's counters have for a global batch."""
        return super().state() | {"per_window": self.order.share.per_window}

    def other_counters(self, state: Mapping[str, Any]) -> str:
        """Return why Lightning's counters of batches in the same checkpoint mean something else here; '' if not."""
        now = self.order.share.per_window
        if (before := state.get("per_window", now)) == now:
            return ""
        return (
            f"The checkpoint counts {before} batches of each process for a global batch, and this run has {now}: go on"
            f" with the same number of processes and batch_size. To change them, save and resume with a"
            f" cairn.Checkpointer."
        )

    def seek(self, state: Mapping[str, Any]) -> None:
        windows = self._windows_before(state)
        assert windows is not None
        super().seek({**state, "batch": windows * self.order.share.per_window})

    def _windows_before(self, state: Mapping[str, Any]) -> int | None:
        """Return the number of global batches before a saved position; None if it lies inside of one."""
        batch: int = state["batch"]
        if "global_batch_size" in state or not batch:
            return batch
        windows, rest = divmod(batch * state["batch_size"] * state["world_size"], self._size)  # of each process
        return None if rest else windows
