"""The batches of a validation or a test."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

from cairn.lightning.loops import dealing, whole_means


class BoundaryEvaluationLoop(_EvaluationLoop):
    """Lightning's loop over validation batches, whose limits count global batches where there are some."""

    def setup_data(self) -> None:
        before = self._combined_loader
        super().setup_data()
        found = self._combined_loader
        if found is None or found is before:
            return
        if any(counted := dealing.counted(found.flattened)):
            whole_means.keep(self._results)
            limit = getattr(self.trainer, f"limit_{self._stage.dataloader_prefix}_batches")
            self._max_batches = dealing.limits(counted, limit, self._max_batches)


def install(trainer: Trainer) -> None:
    """Let the loops of a trainer over validation and test batches count global batches."""
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
        if type(loop) is _EvaluationLoop:
            loop.__class__ = BoundaryEvaluationLoop


BoundaryEvaluationLoop.__name__ = _EvaluationLoop.__name__  # as in epoch_loop.py
