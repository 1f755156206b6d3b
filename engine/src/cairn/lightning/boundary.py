"""The boundary: where a batch is complete with all its hooks, its validation and its schedulers, and a restart there.

With sums.py, the only place for Lightning's private names; both are written for Lightning 2.6 and are refused
with another one (`install`). Lightning's own restart repeats or drops a scheduler step, an empty turn of the loop and
the end of an epoch, depending on where the run stopped; ours has two places to start from and nothing in between.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import lightning
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import RestartStage, _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _is_max_limit_reached
from lightning.pytorch.plugins.environments import SLURMEnvironment

from cairn.data.loader import DataLoader
from cairn.errors import ConfigError
from cairn.jobs.signals import Interruption
from cairn.lightning import versions
from cairn.lightning.agreement import TIME_LIMIT
from cairn.types import Position, Saved

Place = Literal["batch", "epoch"]
"""Where a run can be saved: after a batch, or, when its end was decided there, after the hooks of an epoch's end."""


class Engine(Protocol):
    """Who is asked at every boundary."""

    def at_boundary(self, place: Place, ends: bool) -> None:
        """A batch (or an epoch) is complete; `ends`: the run ends here. May raise to stop the run here."""
        ...

    def restore(self) -> None:
        """Put back what Lightning does not restore, the random number generators last."""
        ...

    def stopped(self, reason: str) -> None:
        """The run was stopped at a boundary, and `fit` returns nevertheless."""
        ...


class Stopped(Interruption):
    """Training was asked to stop, is saved, and stands at a boundary. Uncaught, it ends the process by its exit code.

    Attributes:
        reason: Name of a signal, `max_time`, or `job_time_limit`.
        saved: The newest committed checkpoint; None if there is none, and on other ranks than 0.
    """

    def __init__(self, reason: str, saved: Saved | None, rank: int = 0) -> None:
        super().__init__(reason)
        self.saved = saved
        if rank > 0:  # Lightning's launcher kills the main process, which may still be busy, when another one fails
            self.code = 0


def install(trainer: Trainer, engine: Engine) -> None:
    """Exchange the trainer's loops for those with a boundary.

    The objects stay, and get another class: data sources, counters and limits that were set on them are kept.

    Raises:
        ConfigError: This is an unsupported version of Lightning, or the trainer has custom loops.
    """
    versions.check(lightning.__version__)
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for loop, ours in ((fit_loop, BoundaryFitLoop), (epoch_loop, BoundaryEpochLoop)):
        if type(loop) not in (ours, ours.__bases__[0]):
            raise ConfigError(
                f"The trainer has a loop of its own ({type(loop).__name__}), which has no boundaries: a Checkpointer"
                f" needs Lightning's."
            )
        loop.__class__ = ours
    fit_loop.engine = epoch_loop.engine = engine


def requeue_signal(trainer: Trainer) -> str | None:
    """Return the name of the signal at which Lightning requeues the SLURM job; None if it does not requeue."""
    environment = trainer._accelerator_connector.cluster_environment
    requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
    return environment.requeue_signal.name if requeues and environment.requeue_signal else None


class BoundaryEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a boundary after each."""

    engine: Engine
    pending = False
    """A state from after a batch waits to be restored, as late as possible: right before the next batch is drawn."""
    end_seen = False
    """The last boundary knew that the run ends with it."""

    def reset(self) -> None:
        super().reset()
        if self.pending:
            _forget_restart(self.trainer)
            self.pending = False
            self.engine.restore()
            self.end_seen = self._ends_here()

    def update_restart_stage(self) -> None:
        super().update_restart_stage()
        if self.pending:  # the counters are those of a complete batch; Lightning guesses from their differences
            self._restart_stage = RestartStage.RESTARTED_ON_LAST

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        super().on_advance_end(data_fetcher)
        if self._window_closed():
            self.end_seen = self._ends_here()
            self.engine.at_boundary("batch", self.end_seen)

    def _window_closed(self) -> bool:
        """With manual optimization the module owns its windows, and their gradients are saved."""
        return not self.trainer.lightning_module.automatic_optimization or not self._should_accumulate()

    def _ends_here(self) -> bool:
        fit_loop = self.trainer.fit_loop
        last_of_epoch = self._num_ready_batches_reached()
        epochs = fit_loop.epoch_progress.current.processed + 1
        return bool(
            _is_max_limit_reached(self.global_step, self.max_steps)
            or (last_of_epoch and _is_max_limit_reached(epochs, fit_loop.max_epochs or -1))
            or (self.trainer.should_stop and fit_loop._can_stop_early)
        )


class BoundaryFitLoop(_FitLoop):
    """Lightning's loop over the epochs, which goes into an epoch whose last batch was saved, to end it."""

    engine: Engine
    pending = False
    """A state from after an epoch waits to be restored: before the next epoch begins."""

    def run(self) -> None:
        try:
            super().run()
        except Stopped as stop:
            if stop.reason != TIME_LIMIT:
                raise
            self.engine.stopped(stop.reason)
            self._restarting = False
            self.on_run_end()

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        if self._data_fetcher is not None:  # made already, by who asked for `estimated_stepping_batches`
            self._load_combined_loader_states()
            iter(self._data_fetcher)

    def _load_combined_loader_states(self) -> None:
        # Lightning's own leaves the position out if the epoch of the checkpoint is over.
        if self._combined_loader is not None and self._combined_loader_states_to_load:
            self._combined_loader._load_state_dicts(self._combined_loader_states_to_load)
            self._combined_loader_states_to_load = []

    @property
    def done(self) -> bool:
        # max_steps reached, or should_stop set, on the saved batch: the end of its epoch is still to come.
        return False if self._epoch_loop.pending else super().done

    def reset(self) -> None:
        super().reset()
        if self.pending:
            _forget_restart(self.trainer)

    def on_advance_start(self) -> None:
        if self.pending:
            self.pending = False
            self.engine.restore()
        super().on_advance_start()

    def on_advance_end(self) -> None:
        super().on_advance_end()
        if self._ends_here() and not self._epoch_loop.end_seen:
            self.engine.at_boundary("epoch", True)

    @property
    def _epoch_loop(self) -> BoundaryEpochLoop:
        assert isinstance(self.epoch_loop, BoundaryEpochLoop)
        return self.epoch_loop

    def _ends_here(self) -> bool:
        return bool(
            _is_max_limit_reached(self.epoch_loop.global_step, self.max_steps)
            or _is_max_limit_reached(self.epoch_progress.current.processed, self.max_epochs or -1)
            or (self.trainer.should_stop and self._can_stop_early)
        )


def expect(trainer: Trainer, place: Place) -> None:
    """Tell the loops that a state from `place` is being loaded."""
    fit_loop = trainer.fit_loop
    assert isinstance(fit_loop, BoundaryFitLoop)
    fit_loop.pending = place == "epoch"
    fit_loop._epoch_loop.pending = place == "batch"


def position(trainer: Trainer, place: Place, samples: int) -> Position:
    """Where the trainer is, at a boundary."""
    fit_loop, batches = trainer.fit_loop, trainer.fit_loop.epoch_loop.batch_progress
    return Position(
        epoch=fit_loop.epoch_progress.current.completed,
        batch=batches.current.completed if place == "batch" else 0,
        total_batches=batches.total.completed,
        step=trainer.global_step,
        samples=samples,
    )


def train_loaders(trainer: Trainer) -> list[Any]:
    """The loaders that the training really uses."""
    combined = trainer.fit_loop._combined_loader
    return list(combined.flattened) if combined is not None else []


def dump(trainer: Trainer, place: Place) -> dict[str, Any]:
    """Everything that Lightning itself would save, as references to live tensors."""
    fetcher, batches = trainer.fit_loop._data_fetcher, trainer.fit_loop.epoch_loop.batch_progress.current
    lag = max(0, fetcher.fetched - batches.ready) if isinstance(fetcher, _PrefetchDataFetcher) else 0
    for loader in train_loaders(trainer):
        if isinstance(loader, DataLoader):
            loader.at_boundary(lag, epoch_is_over=place == "epoch")
    return trainer._checkpoint_connector.dump_checkpoint(False)  # not the weights alone


def counters(trainer: Trainer) -> dict[str, Any]:
    """Counts of the loops that Lightning does not save: validation batches so far, epochs of the last reloads."""
    fit_loop, val_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop
    return {
        "val_ready": val_loop._combined_loader is not None,
        "val_batches": dict(val_loop._seen_batches_per_dataloader),
        "val_reload": val_loop._last_val_dl_reload_epoch,
        "train_reload": fit_loop._last_train_dl_reload_epoch,
    }


def set_counters(trainer: Trainer, counts: dict[str, Any]) -> None:
    """Put back what `counters` gave."""
    fit_loop, val_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop
    if counts["val_ready"]:
        # Now, and not at the next validation: making the loaders sets the counts to zero.
        trainer.validating = True
        val_loop.setup_data()
        trainer.training = True
    val_loop._seen_batches_per_dataloader.update(counts["val_batches"])
    val_loop._last_val_dl_reload_epoch = counts["val_reload"]
    fit_loop._last_train_dl_reload_epoch = counts["train_reload"]


def sync_flags(trainer: Trainer) -> dict[str, bool]:
    """Whether DDP will send rank 0's buffers around before the next forward (it does not right after a validation)."""
    model: Any = trainer.strategy.model
    return {"forward": model.require_forward_param_sync} if hasattr(model, "require_forward_param_sync") else {}


def set_sync_flags(trainer: Trainer, flags: dict[str, bool]) -> None:
    """Put back what `sync_flags` gave."""
    model: Any = trainer.strategy.model
    if flags and hasattr(model, "require_forward_param_sync"):
        model.require_forward_param_sync = flags["forward"]


def callback_states(trainer: Trainer) -> dict[str, Any]:
    """The state of every callback of this rank (Lightning saves rank 0's)."""
    return {callback.state_key: state for callback in trainer.callbacks if (state := callback.state_dict())}


def _forget_restart(trainer: Trainer) -> None:
    """The counters are right as they were loaded: whatever Lightning would mend for a restart is wrong here."""
    fit_loop = trainer.fit_loop
    fit_loop.epoch_loop.restarting = False
    fit_loop._restarting = False
