"""What a run keeps on any number of processes: its virtual ranks, and the seed of their random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer

from cairn.errors import ResumeError
from cairn.lightning.bits.drawing import Drawing
from cairn.lightning.bits.exchange import gathered
from cairn.lightning.bits.tree import Layout


class Kept:
    """What a run keeps.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._number = self._size = 0
        self._saved: Mapping[str, Any] = {}
        self._drawing: Drawing | None = None

    @property
    def drawing(self) -> Drawing:
        """Random numbers. A new run has the seed of torch's generator in process 0, when this is first asked for."""
        if self._drawing is None:
            trainer = self._trainer
            processes = Layout(trainer.world_size, trainer.global_rank, trainer.world_size)
            self._drawing = Drawing(gathered(torch.initial_seed(), processes)[0])
        return self._drawing

    def begin(self, number: int, size: int) -> None:
        """Begin with a number of virtual ranks, and samples in a global batch.

        Raises:
            ResumeError: The run has another number of virtual ranks.
        """
        self._number, self._size = number, size
        before = self._saved.get("virtual_ranks", number)
        if before != number:
            raise ResumeError(
                f"The run has {before} virtual ranks, with batches of {size // before} samples, and now there are"
                f" {number}, of {size // number}: elastic='bits' needs the same batches. Set batch_size to"
                f" {size // before}.",
                parameter="batch_size",
            )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"level": "bits", "virtual_ranks": self._number, "seed": self.drawing.seed}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on with what `state` has returned.

        Raises:
            ResumeError: See `begin`.
        """
        self._saved, self._drawing = saved, Drawing(saved["seed"])
        if self._number:  # the loaders are there already
            self.begin(self._number, self._size)
