"""The adapter to Lightning: at each boundary it asks the schedule, hands the state to the writer, and tidies up."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torchmetrics import MetricTracker

from cairn.checkpoint import estimate, layout, loop, retention, schedule, snapshot, state
from cairn.checkpoint.errors import ConfigError, SaveError
from cairn.checkpoint.failures import Failures
from cairn.checkpoint.history import History
from cairn.checkpoint.resume import Plan
from cairn.checkpoint.snapshot import Origin
from cairn.checkpoint.types import Mode, Moment, Position, Saved
from cairn.checkpoint.writer import SyncWriter, Writer

log = logging.getLogger(__name__)

TIME_LIMIT = "max_time"
_START = Position(0, 0)


class Stopped(BaseException):
    """Training was asked to stop and stands at a boundary. Not an error: nothing but `run` should catch it.

    Attributes:
        why: the name of a signal, or `max_time`.
        saved: the newest committed checkpoint, None if there is none (rank 0 only).
    """

    def __init__(self, why: str, saved: Saved | None) -> None:
        super().__init__(why)
        self.why, self.saved = why, saved


@dataclass(frozen=True)
class Policy:
    """What the configuration group `checkpoint` says."""

    directory: Path
    triggers: Mapping[str, schedule.Trigger] = field(default_factory=dict)
    rules: Mapping[str, retention.Rule] = field(default_factory=dict)
    monitor: str | None = None
    mode: Mode = "min"
    max_time_s: float | None = None
    max_failed_saves: int = 3


class CheckpointEngine(Checkpoint):
    """Saves and restores a run by `policy`. `attach` it to the trainer that got it as a callback.

    Args:
        policy: when to save, what to keep, and where.
        origin: the run that the checkpoints belong to.
        plan: what this start goes on from, as `resume.plan` found it.
        stop: asked at every boundary for the signal that the run shall obey; 0 means none.
        writer: commits the files; by default in the training thread.
    """

    def __init__(
        self,
        policy: Policy,
        origin: Origin,
        plan: Plan = Plan(None),
        stop: Callable[[], int] = lambda: 0,
        writer: Writer | None = None,
    ) -> None:
        super().__init__()
        self.policy, self.origin, self.plan, self.stop = policy, origin, plan, stop
        self.writer: Writer = writer or SyncWriter(policy.directory)
        ranked_by = policy.mode if policy.monitor else None
        self.history = History(policy.directory, policy.rules.values(), ranked_by, self.writer)
        self.num_saves, self.total_stall_s = 0, 0.0
        self.failures = Failures(policy.max_failed_saves)
        self._trainer: Trainer | None = None
        self._loaded: dict[str, Any] = {}
        self._previous, self._samples = _START, 0
        self._elapsed_before, self._last_save_s = 0.0, 0.0
        self._started: float | None = None
        self._score: float | None = None

    def attach(self, trainer: Trainer) -> None:
        """Give `trainer` the loops with boundaries. Before `fit`."""
        self._trainer = trainer
        loop.install(trainer, self)

    @property
    def elapsed_s(self) -> float:
        """Training time of the run, in seconds, over all its restarts."""
        return self._elapsed_before + (0.0 if self._started is None else time.monotonic() - self._started)

    # What Lightning reads off a checkpoint callback

    @property
    def best_model_path(self) -> str:
        """For `trainer.test(ckpt_path="best")`; empty if nothing kept has a score."""
        return self.history.path(self.history.best)

    @property
    def last_model_path(self) -> str:
        """The newest checkpoint; empty if there is none."""
        return self.history.path(self.history.newest)

    @property
    def best_model_score(self) -> torch.Tensor | None:
        """The monitored metric of the best checkpoint."""
        best = self.history.best
        return None if best is None else torch.tensor(best.score)

    # Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):
            raise ConfigError(
                "StochasticWeightAveraging cannot be resumed (it keeps its averages where no checkpoint sees them): "
                "use lightning.pytorch.callbacks.EMAWeightAveraging."
            )
        if any(isinstance(module, MetricTracker) for module in pl_module.modules()):
            raise ConfigError(
                "A torchmetrics.MetricTracker cannot be resumed (it makes a metric per epoch): log the metric itself, "
                "metrics.csv has its history."
            )
        if trainer.is_global_zero and not trainer.fast_dev_run:
            if self.policy.triggers:
                self.history.check_writable()
            self.history.open(self.origin.run, self.plan)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if state.KEY not in checkpoint:
            rank_zero_warn("This checkpoint was not written by Cairn: it is resumed as Lightning does, not exactly.")
            return
        self._loaded = checkpoint[state.KEY]
        snapshot.check(self._loaded, trainer.world_size)
        snapshot.warn_of_threads(trainer, self._loaded)
        self._previous = Position(**self._loaded["position"])
        self._samples = self._previous.samples
        if self._loaded["run"] == self.origin.run:  # and not a new run that starts from another's state
            clock = self._loaded["clock"]
            self.num_saves = clock["num_saves"]
            # Its own cost was not known yet when it was written; its manifest knows it.
            self.total_stall_s = clock["total_stall_s"] + (self.plan.saved.stall_s if self.plan.saved else 0.0)
            self._elapsed_before = self._last_save_s = clock["elapsed_s"]
            snapshot.restore_loggers(trainer, self._loaded)
        trainer.should_stop = self._loaded["should_stop"]
        loop.expect(trainer, self._loaded["place"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        self._due(self._moment("batch", ends=False))  # a trigger that cannot answer says so before training
        if self.policy.triggers and trainer.is_global_zero and not trainer.fast_dev_run:
            self.history.check_space(estimate.first_num_bytes(pl_module, trainer.optimizers))
        if self.policy.triggers and not _keeps_its_place(trainer):
            rank_zero_warn(
                "The training data does not say where it stands, so that after a resume inside an epoch it starts "
                "again from its head: batches come twice, and others not at all. Inherit the DataModule of this "
                "package, or give the datamodule a state_dict."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.policy.monitor is None or trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run:
            return
        value = trainer.callback_metrics.get(self.policy.monitor)
        if trainer.sanity_checking and isinstance(trainer.val_dataloaders, list) and len(trainer.val_dataloaders) > 1:
            return  # what is logged by one of several loaders is not to be seen here
        if value is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ConfigError(
                f"checkpoint.monitor={self.policy.monitor!r} is not logged by a validation of this model; "
                f"what is logged: {logged}. (For one that skips the sanity check: trainer.num_sanity_val_steps=0.)"
            )
        self._score = None if trainer.sanity_checking else float(value)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += (_num_samples(batch) or 1) * trainer.world_size

    # The boundary

    def at_boundary(self, place: loop.Place, ends: bool) -> None:
        """One save: the schedule says why, or nothing; rank 0 decides and all ranks obey."""
        trainer = self._the_trainer
        if trainer.fast_dev_run:
            return
        moment, due = self._agree(trainer, self._moment(place, ends))
        if due:
            self._save(place, moment, due)
        self._previous, self._score = moment.position, None
        if moment.stop is not None:
            raise Stopped(moment.stop, self.history.newest)

    def restore(self) -> None:
        """Put back what Lightning does not restore; the loops know when."""
        loaded, self._loaded = self._loaded, {}
        snapshot.restore(self._the_trainer, loaded)

    def _moment(self, place: loop.Place, ends: bool) -> Moment:
        trainer, elapsed = self._the_trainer, self.elapsed_s
        limit, stop = self.policy.max_time_s, self.stop()
        over = limit is not None and elapsed >= limit
        size = trainer.num_training_batches
        return Moment(
            position=loop.position(trainer, place, self._samples),
            previous=self._previous,
            batches_per_epoch=int(size) if math.isfinite(size) else None,
            elapsed_s=elapsed,
            since_save_s=elapsed - self._last_save_s,
            score=self._score,
            ends=ends,
            stop=signal.Signals(stop).name if stop else TIME_LIMIT if over else None,
            mode=self.policy.mode,
        )

    def _agree(self, trainer: Trainer, moment: Moment) -> tuple[Moment, tuple[str, ...]]:
        """Any rank's signal stops all; rank 0's clock and metrics decide what is due."""
        if trainer.world_size == 1:
            return moment, self._due(moment)
        stops = [name.name for name in signal.Signals] + [TIME_LIMIT]
        code = 1 + stops.index(moment.stop) if moment.stop else 0
        code = int(trainer.strategy.reduce(torch.tensor(code, device=trainer.strategy.root_device), reduce_op="max"))
        moment = replace(moment, stop=stops[code - 1] if code else None)
        return moment, trainer.strategy.broadcast(self._due(moment) if trainer.is_global_zero else ())

    def _due(self, moment: Moment) -> tuple[str, ...]:
        try:
            return schedule.reasons(self.policy.triggers, moment, self.history.saved)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _save(self, place: loop.Place, moment: Moment, due: tuple[str, ...]) -> None:
        started, trainer = time.monotonic(), self._the_trainer
        clock = {"elapsed_s": moment.elapsed_s, "num_saves": self.num_saves + 1, "total_stall_s": self.total_stall_s}
        self._last_save_s = moment.elapsed_s
        gave_up, final = "", moment.ends or moment.stop is not None
        try:
            contents = snapshot.capture(trainer, place, moment.position, self.origin, clock)
            if trainer.is_global_zero:
                draft = self._draft(moment, due, contents, capture_s=time.monotonic() - started)
                gave_up = self._commit(contents, draft, final)
        except SaveError as error:
            gave_up = self.failures.add(str(error), final)
        if gave_up := trainer.strategy.broadcast(gave_up):
            if moment.stop in (None, TIME_LIMIT):
                raise SaveError(gave_up)
            log.error(gave_up)  # the signal is why the run stops

    def _commit(self, contents: Mapping[str, Any], draft: Saved, final: bool) -> str:
        """Write it and tidy up; returns why the run may not end well though it is written."""
        self.history.make_room(draft)
        saved = self.writer.commit(
            contents, draft, {"world_size": self._the_trainer.world_size, **self.origin.provenance}
        )
        self.failures.reset()
        self.num_saves += 1
        self.total_stall_s += saved.stall_s
        try:
            self.history.add(saved)
        except SaveError as error:
            if final:
                return f"{error} {saved.name} is whole; the next start of the run mends the rest."
            log.error("%s %s is whole; the next save tries again.", error, saved.name)
        return ""

    def _draft(self, moment: Moment, due: tuple[str, ...], contents: Mapping[str, Any], capture_s: float) -> Saved:
        return Saved(
            name=layout.checkpoint_name(moment.position),
            position=moment.position,
            number=self.history.next_number,
            reasons=due,
            lasting=any(self.policy.triggers[name].lasting for name in due),
            score=moment.score if moment.score is not None and math.isfinite(moment.score) else None,
            metrics=_finite(self._the_trainer.callback_metrics),
            run=self.origin.run,
            elapsed_s=moment.elapsed_s,
            num_bytes=estimate.num_bytes(contents),
            stall_s=capture_s,
        )

    def _stop_clock(self) -> None:
        self._elapsed_before, self._started = self.elapsed_s, None

    @property
    def _the_trainer(self) -> Trainer:
        assert self._trainer is not None, "attach(trainer) comes before fit"
        return self._trainer


def _keeps_its_place(trainer: Trainer) -> bool:
    """Does the datamodule save a position, or each loader?"""
    if trainer.datamodule is not None and trainer.datamodule.state_dict():
        return True
    loaders = trainer.train_dataloader
    flat = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    return all(hasattr(loader, "state_dict") for loader in flat)


def _num_samples(batch: Any) -> int | None:
    """The length of the first tensor in a batch, 1 if that is a scalar; None for a batch without any."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 1
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((found for item in items if (found := _num_samples(item)) is not None), None)


def _finite(metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
