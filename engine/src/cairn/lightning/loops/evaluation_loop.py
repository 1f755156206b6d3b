"""The batches of a validation inside of a fit."""

from __future__ import annotations

from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.trainer.states import TrainerFn

from cairn.lightning.loops import dealing, whole_means


class BoundaryEvaluationLoop(_EvaluationLoop):
    """Lightning's loop over validation batches, whose limits count global batches where there are some."""

    def setup_data(self) -> None:
        before = self._combined_loader
        super().setup_data()
        found = self._combined_loader
        if found is None or found is before or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if dealing.is_any_dealt(found.flattened):
            whole_means.keep(self._results)
            self._max_batches = dealing.limits(found.flattened, self.trainer.limit_val_batches, self._max_batches)


BoundaryEvaluationLoop.__name__ = _EvaluationLoop.__name__  # as in epoch_loop.py
