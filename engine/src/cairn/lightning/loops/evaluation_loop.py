"""The batches of a validation or a test."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

from cairn.lightning.loops import dealing, whole_means
from cairn.lightning.loops.calls import Evaluation, VirtualRanks


class BoundaryEvaluationLoop(_EvaluationLoop):
    """Lightning's loop over validation batches, whose limits count global batches where there are some."""

    virtual_ranks: VirtualRanks | None = None
    """None: each process has its own sums."""
    _evaluation: Evaluation

    def setup_data(self) -> None:
        before = self._combined_loader
        super().setup_data()
        found = self._combined_loader
        if found is None or found is before:
            return
        if self.virtual_ranks is not None:
            self._evaluation = self.virtual_ranks.evaluation(self._results, found.flattened)
        if any(counted := dealing.counted(found.flattened)):
            whole_means.keep(self._results)
            limit = getattr(self.trainer, f"limit_{self._stage.dataloader_prefix}_batches")
            self._max_batches = dealing.limits(counted, limit, self._max_batches)

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, dataloader_iter: Any) -> None:
        if self.virtual_ranks is None:
            super()._evaluation_step(batch, batch_idx, dataloader_idx, dataloader_iter)
            return
        with self._evaluation.batch(dataloader_idx, batch_idx):
            super()._evaluation_step(batch, batch_idx, dataloader_idx, dataloader_iter)

    def _build_step_args_from_hook_kwargs(
        self, hook_kwargs: OrderedDict[str, Any], step_hook_name: str
    ) -> tuple[Any, ...]:
        if self.virtual_ranks is not None and "batch_idx" in hook_kwargs:
            hook_kwargs = OrderedDict(hook_kwargs, batch_idx=self._evaluation.batch_idx)
        found: tuple[Any, ...] = super()._build_step_args_from_hook_kwargs(hook_kwargs, step_hook_name)
        return found

    def on_run_end(self) -> list[Any]:
        found: list[Any] = super().on_run_end()
        if self.virtual_ranks is not None:
            self._evaluation.ends()
        return found

    def _store_dataloader_outputs(self) -> None:
        if self.virtual_ranks is not None:
            self._evaluation.combine()
        super()._store_dataloader_outputs()


def install(trainer: Trainer, ranks: VirtualRanks | None = None) -> None:
    """Let the loops of a trainer over validation and test batches count global batches.

    Args:
        trainer: The trainer.
        ranks: Its virtual ranks, if it has any.
    """
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
        if type(loop) is _EvaluationLoop:
            loop.__class__ = BoundaryEvaluationLoop
        loop.virtual_ranks = ranks
    strategy: Any = trainer.strategy
    vars(strategy).pop("process_dataloader", None)  # of a fit before this one
    if ranks is not None:
        # Before Lightning asks for the length of a loader.
        strategy.process_dataloader = partial(_adopted, ranks, strategy.process_dataloader)


def _adopted(ranks: VirtualRanks, process: Callable[[Any], Any], loader: Any) -> Any:
    ranks.adopt(loader)
    return process(loader)


BoundaryEvaluationLoop.__name__ = _EvaluationLoop.__name__  # as in epoch_loop.py
