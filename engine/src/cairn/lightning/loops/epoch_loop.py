"""The batches of an epoch, with a boundary after each window."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.optimization.automatic import ClosureResult, _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import RestartStage, _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _is_max_limit_reached
from torch import Tensor
from torch.optim import Optimizer

from cairn.errors import ConfigError
from cairn.lightning.loops import loaders, parts
from cairn.lightning.loops.calls import Engine, VirtualRanks
from cairn.lightning.loops.dealing import Dealt
from cairn.lightning.loops.samples import num_samples
from cairn.lightning.loops.step_arguments import takes_index


class BoundaryEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a boundary after each window."""

    engine: Engine
    pending = False
    """Whether a state from a "batch" boundary is still to be restored."""
    boundary_at = 0
    """Number of batches of the epoch at its last boundary."""
    repeats = False
    """Whether no batch was trained on between the last two boundaries: an epoch has ended without another batch."""
    end_seen = False
    """Whether that boundary was reported as the end of the run."""
    before_fetch: list[Any] | None = None
    """States of the loaders that are not Cairn's, before a batch was fetched ahead; None: none is fetched ahead."""
    needs_iterators = False
    """Whether this epoch begins with new iterators, although the run is resumed."""
    num_samples: int | None = None
    """In the batch that is being trained on."""
    dealt: Dealt | None = None
    """How global batches are dealt out to this process; None: there are none."""
    per_window = 1
    """Batches of this process in a global batch; 1 without global batches."""
    virtual_ranks: VirtualRanks | None = None
    """None: the gradients of all batches are added up as they come."""
    _counts_windows = False
    """Whether `batch_idx` counts global batches, for learning-rate schedulers."""

    @property
    def batch_idx(self) -> int:
        ready = self.batch_progress.current.ready
        return (ready // self.per_window if self._counts_windows else ready) - 1

    def _update_learning_rates(self, interval: str, update_plateau_schedulers: bool) -> None:
        # The frequency of a scheduler is a number of batches: global ones, on any number of processes.
        self._counts_windows = True
        try:
            super()._update_learning_rates(interval, update_plateau_schedulers)
        finally:
            self._counts_windows = False
        if self.virtual_ranks is not None and (interval == "epoch" or not self._num_ready_batches_reached()):
            self.virtual_ranks.step_ended()  # the hooks at the end of the batch follow

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        self._create_iterators(data_fetcher)
        super().on_run_start(data_fetcher)
        if not parts.fetches_ahead(data_fetcher):  # spares each batch the question
            self.before_fetch, data_fetcher._start_profiler = None, super()._on_before_fetch
        done, batches = self.batch_progress.current.ready, data_fetcher.combined_loader._iterator
        if done and isinstance(data_fetcher, _DataLoaderIterDataFetcher) and batches is not None:
            batches._idx = done  # training_step(dataloader_iter) has its batch_idx from there

    def _create_iterators(self, data_fetcher: _DataFetcher) -> None:
        if self.needs_iterators:
            self.needs_iterators = False
            iter(data_fetcher)

    def _on_before_fetch(self) -> None:
        # Where the data has no length, Lightning fetches batch k + 1 before it trains on batch k.
        ahead = parts.fetches_ahead(self.trainer.fit_loop._data_fetcher)
        self.before_fetch = loaders.states_of_foreign(parts.train_loaders(self.trainer)) if ahead else None
        super()._on_before_fetch()

    def reset(self) -> None:
        super().reset()
        self.boundary_at, self.repeats, self.end_seen = 0, False, False
        if self.pending:
            parts.forget_restart(self.trainer)
            self.pending = False
            if self.needs_iterators:
                fit_loop: Any = self.trainer.fit_loop
                fit_loop.load_positions(is_last=True)
                self._create_iterators(fit_loop._data_fetcher)
            # The last batch of an epoch has a boundary "batch" only in a checkpoint of Cairn 0.1.
            ends = partial(self._ends_here, last_of_epoch=self._num_ready_batches_reached())
            # As late as possible, right before the next batch: hooks and new iterators draw random numbers.
            self.engine.restore(ends)
            self.boundary_at, self.end_seen = self.batch_progress.current.ready, ends()

    def update_restart_stage(self) -> None:
        super().update_restart_stage()
        # Lightning infers from differences between its counters how far the last batch came. At a boundary, the batch
        # is complete, and this is the stage in which `reset` counts nothing again.
        if self.pending:
            self._restart_stage = RestartStage.RESTARTED_ON_LAST

    def _build_kwargs(self, kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        self.num_samples = num_samples(batch)
        if self.virtual_ranks is not None:
            batch_idx = self.virtual_ranks.batch_idx
        takes = takes_index(self.trainer.lightning_module.training_step)
        if takes is None:
            return super()._build_kwargs(kwargs, batch, batch_idx)
        kwargs["batch"] = batch
        if takes:
            kwargs["batch_idx"] = batch_idx
        return kwargs

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.virtual_ranks is None:
            super().advance(data_fetcher)
            return
        ready = self.batch_progress.current.ready
        window, number = divmod(ready, self.per_window)
        with self.virtual_ranks.batch(number, window):
            try:
                super().advance(data_fetcher)
            except StopIteration as stop:
                if self.batch_progress.current.ready == ready:  # there is no batch left
                    raise
                raise ConfigError(
                    "on_train_batch_start has returned -1, which ends the epoch at a batch that depends on the number "
                    "of processes: with elastic='bits', use limit_train_batches.",
                    parameter="elastic",
                ) from stop

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        if trainer.fit_loop.inner:
            super().on_advance_end(data_fetcher)
            return
        found, self.num_samples = self.num_samples, None
        if found is None:  # training_step(dataloader_iter) has fetched the batch itself; or the loader has yielded None
            found = num_samples(getattr(data_fetcher, "_batch", None))
        if self.dealt is None:
            self.engine.batch_done(found)
        else:
            self.engine.batch_done(self.dealt.num_samples(self.batch_progress.current.ready), of_all_ranks=True)
        super().on_advance_end(data_fetcher)
        # What follows is run for each batch: calls are spared where one comparison answers.
        if (trainer.accumulate_grad_batches == 1 or self._window_closed()) and not self._num_ready_batches_reached():
            self.boundary_at = self.batch_progress.current.ready
            may_end = self.max_steps != -1 or trainer.should_stop
            self.end_seen = may_end and self._ends_here(last_of_epoch=False)
            self.engine.at_boundary("batch", self.end_seen)

    def _window_closed(self) -> bool:
        """Whether no gradients of an unfinished window would be lost here, with accumulation."""
        # With manual optimization only the module knows its windows; there the gradients are saved, too.
        return not self.trainer.lightning_module.automatic_optimization or not self._should_accumulate()

    def _ends_here(self, last_of_epoch: bool) -> bool:
        fit_loop = self.trainer.fit_loop
        epochs = fit_loop.epoch_progress.current.processed + 1
        return bool(
            (self.max_steps != -1 and _is_max_limit_reached(self.global_step, self.max_steps))
            or (last_of_epoch and _is_max_limit_reached(epochs, fit_loop.max_epochs or -1))
            or (self.trainer.should_stop and fit_loop._can_stop_early)
        )


class UndividedLoss(ClosureResult):
    """A loss that is not divided by the number of batches of this process in a global batch."""

    @classmethod
    def from_training_step_output(cls, training_step_output: Any, normalize: int = 1) -> ClosureResult:
        return super().from_training_step_output(training_step_output, 1)


class WeightedOptimization(_AutomaticOptimization):
    """Lightning's optimization, with the mean over an incomplete global batch: the last one of an epoch.

    Lightning gives each batch of each process the same weight, and there they have different sizes.
    """

    @property
    def output_result_cls(self) -> type[ClosureResult]:  # type: ignore[override]  # an attribute of Lightning's class
        return ClosureResult if self._virtual_ranks is None else UndividedLoss

    @property
    def _virtual_ranks(self) -> VirtualRanks | None:
        return getattr(self.trainer.fit_loop.epoch_loop, "virtual_ranks", None)

    def _make_backward_fn(self, optimizer: Optimizer) -> Callable[[Tensor], None] | None:
        backward = super()._make_backward_fn(optimizer)
        ranks = self._virtual_ranks
        return backward if backward is None or ranks is None else partial(ranks.backward, backward)

    def _optimizer_step(self, batch_idx: int, train_step_and_backward_closure: Callable[[], Tensor | None]) -> None:
        ranks = self._virtual_ranks
        super()._optimizer_step(
            batch_idx if ranks is None else ranks.of_global_batch[-1], train_step_and_backward_closure
        )

    def _optimizer_zero_grad(self, batch_idx: int, optimizer: Optimizer) -> None:
        ranks = self._virtual_ranks
        super()._optimizer_zero_grad(batch_idx if ranks is None else ranks.of_global_batch[0], optimizer)

    def _on_before_zero_grad(self, optimizer: Optimizer) -> None:
        with contextlib.nullcontext() if self._virtual_ranks is None else self._virtual_ranks.start_of_step():
            super()._on_before_zero_grad(optimizer)

    def _training_step(self, kwargs: OrderedDict[str, Any]) -> ClosureResult:
        with contextlib.nullcontext() if self._virtual_ranks is None else self._virtual_ranks.training_step():
            result = super()._training_step(kwargs)
        epoch_loop = self.trainer.fit_loop.epoch_loop
        if result.closure_loss is None and self._virtual_ranks is not None:
            raise ConfigError(
                "training_step has returned None, and elastic='bits' needs the gradients of each batch: return a loss"
                " of 0, or use elastic='samples'.",
                parameter="elastic",
            )
        dealt: Dealt | None = getattr(epoch_loop, "dealt", None)
        if dealt is not None and result.closure_loss is not None:
            weight = dealt.weight(epoch_loop.batch_progress.current.ready - 1)
            if weight != 1:
                result.closure_loss = result.closure_loss * weight
        return result


# Lightning's profilers and errors name a loop by its class: reports keep the names that they have without Cairn.
# `pickle` finds the classes by `__qualname__`.
BoundaryEpochLoop.__name__, WeightedOptimization.__name__ = _TrainingEpochLoop.__name__, "_AutomaticOptimization"
