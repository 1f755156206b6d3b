"""Where an iterator over an order of samples starts, and what a checkpoint needs to know about it."""

from __future__ import annotations

from typing import Any


class Record:
    """Where one iterator over an order starts, and what a checkpoint needs to know about it.

    Args:
        epoch: The epoch.
        cycle: How often the items of this epoch were iterated before.
        start: Number of items of this rank to skip.
        num_samples: Size of the dataset at the beginning of the epoch, if the order depends on it.
    """

    def __init__(self, epoch: int = 0, cycle: int = 0, start: int = 0, num_samples: int | None = None) -> None:
        self.epoch, self.cycle, self.start, self.num_samples = epoch, cycle, start, num_samples
        self.is_started = False
        self.sampler: dict[str, Any] | None = None
        """State of the sampler at the beginning of the epoch; None if it has no state."""
        self.restored: tuple[dict[str, Any], dict[str, Any] | None] | None = None
        """States that the sampler gets before and after it draws the epoch; None: it keeps its own."""

    def move(self, other: Record) -> None:
        """Start where `other` does."""
        self.epoch, self.cycle, self.start, self.num_samples = other.epoch, other.cycle, other.start, other.num_samples

    @property
    def turn(self) -> int:
        """A number that identifies epoch and cycle."""
        return self.epoch + (self.cycle << 32)
