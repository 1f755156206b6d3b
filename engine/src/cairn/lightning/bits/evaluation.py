"""A validation or a test: its batches collect for virtual ranks, too, and draw random numbers of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer

from cairn.data.global_batches import GlobalBatches
from cairn.data.loader import DataLoader
from cairn.errors import ConfigError
from cairn.lightning.bits import exchanging
from cairn.lightning.bits.collected import Collected
from cairn.lightning.bits.kept import Kept
from cairn.lightning.bits.seen import of_rank, seen


class Evaluation:
    """The batches of a validation or a test.

    Args:
        trainer: The trainer.
        results: What `self.log` collects in its loop.
        loaders: Its loaders.
        kept: What the run keeps.

    Raises:
        ConfigError: The loaders divide their samples in another way on each number of processes.
    """

    def __init__(self, trainer: Trainer, results: Any, loaders: Sequence[Any], kept: Kept) -> None:
        for loader in loaders:
            batches = loader.global_batches if isinstance(loader, DataLoader) else None
            if not isinstance(batches, GlobalBatches):
                raise ConfigError(
                    f"elastic='bits' needs global batches in validation and test as well, and a {type(loader).__name__}"
                    f" has none: use cairn.DataLoader(..., global_batch_size=N) with a map-style dataset.",
                    parameter="elastic",
                )
        self._trainer, self._loaders, self._kept = trainer, loaders, kept
        self._collected = Collected(trainer, results)
        kept.drawing.find(trainer)
        self.batch_idx = 0
        """Number of the batch in its loader, as one process would count it."""

    @contextmanager
    def batch(self, loader: int, number: int) -> Iterator[None]:
        """Context in which a batch is worked on.

        Args:
            loader: Number of its loader.
            number: Its number among those of this process.
        """
        share = self._loaders[loader].global_batches.share
        window, turn = divmod(number, share.per_window)
        virtual, counts = share.own[min(turn, len(share.own) - 1)], turn < len(share.own)
        place = window * share.num_virtual_ranks + virtual
        self.batch_idx = place
        draws = self._kept.drawing.evaluation(self._trainer.global_step, loader, place)
        shown = seen(self._trainer, of_rank(virtual, share.num_virtual_ranks))
        with self._collected.batch((loader, virtual), counts), draws, exchanging.refused(self._trainer), shown:
            yield

    def ends(self) -> None:
        """Compare what the hooks at the end have logged."""
        self._collected.results.compare()

    def combine(self) -> None:
        """Combine what the batches of a loader have collected."""
        self._collected.combine()
