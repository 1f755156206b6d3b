"""The adapter to Lightning: at each boundary it asks the schedule, hands the state to the writer, and tidies up."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from cairn.account.failures import Failures
from cairn.account.progress import Progress, ProgressFile
from cairn.account.telemetry import Telemetry
from cairn.errors import ConfigError, SaveError
from cairn.lightning import agreement, boundary, capture, state
from cairn.lightning.agreement import TIME_LIMIT
from cairn.lightning.capture import Origin
from cairn.lightning.io import MappedCheckpointIO
from cairn.policy import auto, keep, when
from cairn.store import names
from cairn.store.history import History
from cairn.store.listener import Listeners
from cairn.store.resume import Plan
from cairn.types import Mode, Moment, Position, Saved
from cairn.writing import copying, pipeline, size
from cairn.writing.buffers import Image
from cairn.writing.encode import Encoder

log = logging.getLogger(__name__)

_START = Position(0, 0)


class Stopped(BaseException):
    """Training was asked to stop and stands at a boundary. Not an error: nothing but `run` should catch it.

    Attributes:
        why: the name of a signal, `max_time`, or `job_time_limit`.
        saved: the newest committed checkpoint, None if there is none (rank 0 only).
    """

    def __init__(self, why: str, saved: Saved | None) -> None:
        super().__init__(why)
        self.why, self.saved = why, saved


@dataclass(frozen=True)
class Policy:
    """What the configuration group `checkpoint` says."""

    directory: Path
    triggers: Mapping[str, when.Trigger] = field(default_factory=dict)
    rules: Mapping[str, keep.Rule] = field(default_factory=dict)
    monitor: str | None = None
    mode: Mode = "min"
    max_time_s: float | None = None
    max_failed_saves: int = 3
    writer: pipeline.WriterKind = "auto"
    buffers: int = 2
    overlap: bool = False
    when_busy: Literal["skip", "wait"] = "skip"


class CheckpointEngine(Checkpoint):
    """Saves and restores a run by `policy`. `attach` it to the trainer that got it as a callback.

    Args:
        policy: when to save, what to keep, and where.
        origin: the run that the checkpoints belong to.
        plan: what this start goes on from, as `resume.plan` found it.
        stop: asked at every boundary for why the run shall stop there, with what a save takes until it is whole, in
            seconds: the name of a signal, or JOB_TIME_LIMIT; None means that it goes on.
        progress: what tells onlookers where the run is.
    """

    def __init__(
        self,
        policy: Policy,
        origin: Origin,
        plan: Plan = Plan(None),
        stop: Callable[[float], str | None] = lambda save_s: None,
        progress: ProgressFile | None = None,
    ) -> None:
        super().__init__()
        self.policy, self.origin, self.plan, self.stop, self.progress = policy, origin, plan, stop, progress
        ranked_by = policy.mode if policy.monitor else None
        self.history = History(policy.directory, policy.rules.values(), ranked_by)
        self.telemetry = Telemetry()
        self.listeners = Listeners()
        self.failures = Failures(policy.max_failed_saves)
        self._trainer: Trainer | None = None
        self.saver: pipeline.Saver | None = None
        self._encoder = Encoder()
        self._image: Image | None = None
        """Reserved for the save that is due."""
        self._hooks: list[RemovableHandle] = []
        self._loaded: dict[str, Any] = {}
        self._previous, self._samples = _START, 0
        self._waited_s = 0.0
        self._choice: auto.Choice | None = None
        self._score: float | None = None

    def attach(self, trainer: Trainer, loader: MappedCheckpointIO | None = None) -> None:
        """Give `trainer` the loops with boundaries, and a quick way to load. Before `fit`."""
        self._trainer = trainer
        boundary.install(trainer, self)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that somebody has chosen
            trainer.strategy.checkpoint_io = loader or MappedCheckpointIO()

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
        capture.refuse(trainer, pl_module)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            if self.policy.triggers:
                self.history.check_writable()
            self.history.open(self.origin.run, self.plan)
            saved, links, deleted = self.history.saved, self.history.links, self.history.dropped
            self.listeners.opened(self.policy.directory, saved, links, deleted)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if state.KEY not in checkpoint:
            rank_zero_warn("This checkpoint was not written by Cairn: it is resumed as Lightning does, not exactly.")
            return
        self._loaded = checkpoint[state.KEY]
        capture.check(self._loaded, trainer.world_size)
        capture.warn_of_threads(trainer, self._loaded)
        self._previous = Position(**self._loaded["position"])
        self._samples = self._previous.samples
        if self._loaded["run"] == self.origin.run:  # and not a new run that starts from another's state
            self.telemetry.load_state_dict(self._loaded["clock"], self.plan.saved)
            capture.restore_loggers(trainer, self._loaded)
        trainer.should_stop = self._loaded["should_stop"]
        boundary.expect(trainer, self._loaded["place"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.telemetry.clock.start()
        self._due(self._moment("batch", ends=False))  # a trigger that cannot answer says so before training
        if self.policy.triggers and trainer.is_global_zero and not trainer.fast_dev_run:
            num_bytes = size.first_num_bytes(pl_module, trainer.optimizers)
            self.history.check_space(num_bytes)
            self._open_saver(trainer, max(num_bytes, self.plan.saved.num_bytes if self.plan.saved else 0))
            self.telemetry.meter.expect(num_bytes)
        if self.policy.triggers:
            capture.warn_of_data(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.telemetry.clock.stop()
        if self.progress is not None:
            self.progress.close()
        if why := self._close_saver():
            raise SaveError(why)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.telemetry.clock.stop()
        if self.progress is not None:
            self.progress.close()
        if why := self._close_saver(wait=not isinstance(exception, KeyboardInterrupt)):  # which means at once
            log.error(why)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        # Behind the forward and backward, which run inside of optimizer.step(): a hook of the optimizer is too early.
        self._finish_copy()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish_copy()  # averaged weights take the place of the others there

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.telemetry.clock.validated = True
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

    def at_boundary(self, place: boundary.Place, ends: bool) -> None:
        """One save: the schedule says why, or nothing; rank 0 decides and all ranks obey."""
        trainer = self._the_trainer
        if trainer.fast_dev_run:
            return
        self._finish_copy()
        now = boundary.position(trainer, place, self._samples)
        self.telemetry.batches(now.total_batches - self._previous.total_batches)
        moment, due, gave_up = self._agree(trainer, self._moment(place, ends))
        if gave_up and moment.stop is None:
            raise SaveError(gave_up)
        if gave_up:
            log.error(gave_up)  # the run stops anyway, with the save that a stop asks for
        self._show(moment)
        if due:
            self._save(place, moment, due)
        self._previous, self._score = moment.position, None
        if moment.stop is not None:
            raise Stopped(moment.stop, self.history.newest)
        self.telemetry.clock.begin_batch(self._busy)

    def _show(self, moment: Moment) -> None:
        """Tell onlookers where the run is, and a person who waits for its end how long that takes."""
        trainer, where = self._the_trainer, moment.position
        if not trainer.is_global_zero:
            return
        if self.progress is not None:
            now, size = time.time(), moment.batches_per_epoch
            self.progress.write(
                Progress(where.epoch, where.batch, where.total_batches, where.step, moment.elapsed_s, now, size)
            )
        if moment.stop is not None and self.policy.triggers:
            newest = self.history.newest
            log.info(
                "%s: the run is saved here, which takes about %.1f s. Should there be less time, it goes on from %s.",
                moment.stop,
                moment.cost.whole_s if moment.cost else 0.0,
                newest.name if newest else "its beginning",
            )

    def restore(self) -> None:
        """Put back what Lightning does not restore; the loops know when."""
        loaded, self._loaded = self._loaded, {}
        capture.restore(self._the_trainer, loaded)

    def _moment(self, place: boundary.Place, ends: bool) -> Moment:
        trainer, elapsed = self._the_trainer, self.telemetry.elapsed_s
        limit, cost = self.policy.max_time_s, self.telemetry.meter.cost()
        stop = self.stop(cost.whole_s if cost else 0.0)
        over = limit is not None and elapsed >= limit
        size = trainer.num_training_batches
        return Moment(
            position=boundary.position(trainer, place, self._samples),
            previous=self._previous,
            batches_per_epoch=int(size) if math.isfinite(size) else None,
            elapsed_s=elapsed,
            since_save_s=elapsed - self.telemetry.last_save_s,
            score=self._score,
            ends=ends,
            stop=stop or (TIME_LIMIT if over else None),
            mode=self.policy.mode,
            cost=cost,
            busy=self._busy,
        )

    def _agree(self, trainer: Trainer, moment: Moment) -> tuple[Moment, tuple[str, ...], str]:
        """Any rank's signal stops all; rank 0's clock, metrics and disk decide what is due, or that the run ends."""
        gave_up = self._hear()
        due = self._affordable(self._due(moment), moment) if trainer.is_global_zero else ()
        if trainer.world_size == 1:
            return moment, due, gave_up
        stop, special = agreement.meet(trainer.strategy, moment.stop, bool(due or gave_up))
        moment = replace(moment, stop=stop)
        if stop and trainer.is_global_zero:
            also = self._due(moment)  # a trigger with a memory says yes only once
            due = self._affordable(tuple(name for name in self.policy.triggers if name in {*due, *also}), moment)
        if stop or special:
            due, gave_up = trainer.strategy.broadcast((due, gave_up))
        return moment, due, gave_up

    def _due(self, moment: Moment) -> tuple[str, ...]:
        try:
            due = when.reasons(self.policy.triggers, moment, self.history.expected)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        choice = when.choice(self.policy.triggers)
        if choice != self._choice:
            self._choice = choice
            log.info("%s", choice)
        return due

    def _affordable(self, due: tuple[str, ...], moment: Moment) -> tuple[str, ...]:
        """What is due, if there is a buffer for it now; what can be done again later is left out when there is none."""
        if due and self._image is None:
            may_skip = self.policy.when_busy == "skip" and all(self.policy.triggers[name].recurs for name in due)
            started = time.monotonic()
            self._image = self._the_saver.reserve(wait=not may_skip)
            self._waited_s = time.monotonic() - started
            if self._image is None:
                self.telemetry.skipped(moment.elapsed_s)
                return ()
        return due

    def _save(self, place: boundary.Place, moment: Moment, due: tuple[str, ...]) -> None:
        waited_s, self._waited_s = self._waited_s, 0.0
        started, trainer = time.monotonic() - waited_s, self._the_trainer
        gave_up, final = "", moment.ends or moment.stop is not None
        clock = self.telemetry.state_dict(moment.elapsed_s)
        self.telemetry.begun(moment.elapsed_s)
        try:
            with _uncollected():
                contents = capture.capture(trainer, place, moment.position, self.origin, clock)
                if trainer.is_global_zero:
                    self._stage(contents, moment, due, started, waited_s)
            if final or not self._in_background:
                gave_up = self._hear(final)
        except SaveError as error:
            gave_up = self.failures.add(str(error), final)
        self.telemetry.meter.stalled(time.monotonic() - started, waited_s)
        if gave_up := trainer.strategy.broadcast(gave_up):
            if moment.stop in (None, TIME_LIMIT):
                raise SaveError(gave_up)
            log.error(gave_up)  # the signal is why the run stops

    def _stage(
        self, contents: Mapping[str, Any], moment: Moment, due: tuple[str, ...], started: float, waited_s: float
    ) -> None:
        """Copy the state; from then on training may change it."""
        trainer, image = self._the_trainer, self._image
        assert image is not None
        draft = self._draft(moment, due)
        encoded = self._encoder.encode(contents)
        steady = copying.steady(trainer.optimizers)
        num_bytes = self._the_saver.copy(encoded, image, steady)
        draft = replace(draft, num_bytes=num_bytes, stall_s=time.monotonic() - started, wait_s=waited_s)
        self._image = None
        provenance = {"world_size": trainer.world_size, **self.origin.provenance}
        self.telemetry.staged()
        if trainer.is_last_batch or not self._in_background:
            # What hooks at an epoch's end do to weights is theirs; and where training waits, nothing overlaps.
            self._the_saver.stage.finish()
        self._the_saver.commit(image, draft, provenance)

    def _hear(self, final: bool = False) -> str:
        """Tell what became of saves; returns why the run gives up, or does not end well, if so.

        Args:
            final: wait for all of them; the last one is the last of the run.
        """
        if self.saver is None:
            return ""
        if final:
            self.saver.stage.finish()
            self.saver.wait()
        gave_up, outcomes = "", self.saver.outcomes()
        for outcome in outcomes:
            if self._in_background and not final:  # else what it waited for was a part of the pause
                self.telemetry.meter.stood_longer(outcome.device_s)
            last = final and outcome is outcomes[-1]
            if outcome.result is None:
                self.telemetry.failed()
                why = self.failures.add(outcome.error, last)
                gave_up = why if last else gave_up or why
                continue
            gave_up = self.failures.reset()
            self.telemetry.committed(outcome.result.saved, outcome.at_s, self._the_trainer.loggers)
            if untidy := outcome.result.untidy:
                if last:
                    return f"{untidy} {outcome.draft.name} is whole; the next start of the run mends the rest."
                log.error("%s %s is whole; the next save tries again.", untidy, outcome.draft.name)
        return gave_up

    def _open_saver(self, trainer: Trainer, num_bytes: int) -> None:
        policy, on_gpu = self.policy, trainer.strategy.root_device.type == "cuda"
        copies = copying.Stage(policy.overlap)
        self.saver = pipeline.saver(
            policy.writer,
            policy.buffers,
            copies,
            self.history,
            num_bytes,
            on_gpu,
            self.listeners,
            partial(capture.sync_loggers, trainer),
        )
        if policy.overlap and not trainer.lightning_module.automatic_optimization:
            for optimizer in trainer.optimizers:  # which may be stepped without Lightning noticing
                self._hooks.append(optimizer.register_step_pre_hook(lambda *_: self._finish_copy()))

    def _close_saver(self, wait: bool = True) -> str:
        """Let what is on its way arrive (or leave it to the writer), and give back memory and processes; as `_hear`."""
        while self._hooks:
            self._hooks.pop().remove()
        if self.saver is None:
            return ""
        why = self._hear(final=wait)
        self.saver.close()
        self.saver = self._image = None
        return why

    def _finish_copy(self) -> None:
        """From here on anything may change the weights."""
        if self.saver is not None:
            self.telemetry.waited(self.saver.stage.finish())

    def _draft(self, moment: Moment, due: tuple[str, ...]) -> Saved:
        return Saved(
            name=names.checkpoint_name(moment.position),
            position=moment.position,
            number=0,  # its history knows
            reasons=due,
            lasting=any(self.policy.triggers[name].lasting for name in due),
            score=moment.score if moment.score is not None and math.isfinite(moment.score) else None,
            metrics=_finite(self._the_trainer.callback_metrics),
            run=self.origin.run,
            elapsed_s=moment.elapsed_s,
            interval_batches=self._choice.interval_batches if self._choice else None,
            overhead=self.telemetry.meter.overhead(moment.elapsed_s),
            skipped=self.telemetry.meter.num_skipped,
        )

    @property
    def _busy(self) -> bool:
        """Is a save being written?"""
        return self.saver is not None and self.saver.busy

    @property
    def _in_background(self) -> bool:
        return self.saver is None or self.saver.background

    @property
    def _the_saver(self) -> pipeline.Saver:
        assert self.saver is not None, "there are triggers, and training has started"
        return self.saver

    @property
    def _the_trainer(self) -> Trainer:
        assert self._trainer is not None, "attach(trainer) comes before fit"
        return self._trainer


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's garbage collector: many small tensors make it look at all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _num_samples(batch: Any) -> int | None:
    """The length of the first tensor in a batch, 1 if that is a scalar; None for a batch without any."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 1
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((found for item in items if (found := _num_samples(item)) is not None), None)


def _finite(metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
