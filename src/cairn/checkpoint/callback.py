"""The adapter to Lightning: at each boundary it asks the schedule, hands the state to the writer, and tidies up."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.checkpoint import layout, loop, retention, schedule, state, sums
from cairn.checkpoint.catalog import Catalog
from cairn.checkpoint.errors import ConfigError, ResumeError
from cairn.checkpoint.resume import Plan
from cairn.checkpoint.types import Mode, Moment, Position, Saved, ranked
from cairn.checkpoint.writer import SyncWriter, Writer

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


@dataclass(frozen=True)
class Origin:
    """Where checkpoints come from: what each of them says of its run."""

    run: str
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


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
        self.saved: list[Saved] = []
        self.num_saves, self.total_stall_s = 0, 0.0
        self.best_model_path = self.last_model_path = ""
        self.best_model_score: torch.Tensor | None = None
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

    # Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):
            raise ConfigError(
                "StochasticWeightAveraging cannot be resumed (it keeps its averages where no checkpoint sees them): "
                "use lightning.pytorch.callbacks.EMAWeightAveraging."
            )
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._open_directory()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if state.KEY not in checkpoint:
            rank_zero_warn("This checkpoint was not written by Cairn: it is resumed as Lightning does, not exactly.")
            return
        self._loaded = _checked(checkpoint[state.KEY], trainer.world_size)
        clock = self._loaded["clock"]
        self._previous = Position(**self._loaded["position"])
        self._samples = self._previous.samples
        self._elapsed_before = self._last_save_s = clock["elapsed_s"]
        if self._goes_on():
            self.num_saves, self.total_stall_s = clock["num_saves"], clock["total_stall_s"]
            _each_logger(trainer, self._loaded["loggers"])
        trainer.should_stop = self._loaded["should_stop"]
        loop.expect(trainer, self._loaded["place"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        if self.policy.triggers and not _keeps_its_place(trainer):
            rank_zero_warn(
                "The training data does not say where it stands, so that after a resume inside an epoch it starts "
                "again from its head: batches come twice, and others not at all. Inherit cairn.DataModule, or give "
                "the datamodule a state_dict."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_clock()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.policy.monitor is None or trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run:
            return
        value = trainer.callback_metrics.get(self.policy.monitor)
        if value is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ConfigError(
                f"checkpoint.monitor={self.policy.monitor!r} is not logged by a validation of this model; "
                f"what is logged: {logged}."
            )
        self._score = None if trainer.sanity_checking else float(value)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += _num_samples(batch) * trainer.world_size

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
            raise Stopped(moment.stop, self.saved[-1] if self.saved else None)

    def restore(self) -> None:
        """Put back what Lightning does not restore, the random number generators last."""
        trainer, module = self._the_trainer, self._the_trainer.lightning_module
        # A GradientAccumulationScheduler sets it in a hook that a resumed epoch does not repeat.
        trainer.accumulate_grad_batches = self._loaded["accumulate_grad_batches"]
        mine, self._loaded = self._loaded["ranks"][trainer.global_rank], {}
        loop.set_counters(trainer, mine["counters"])
        sums.set_metrics(module, mine["metrics"])
        sums.set_logged(trainer, mine["logged"])
        state.set_buffers(module, mine["buffers"])
        state.set_gradients(module, mine["gradients"])
        loop.set_sync_flags(trainer, mine["sync"])
        for callback in trainer.callbacks if trainer.global_rank > 0 else ():
            if callback.state_key in mine["callbacks"]:
                callback.load_state_dict(mine["callbacks"][callback.state_key])
        state.set_rng_state(mine["rng"])

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
            return moment, schedule.reasons(self.policy.triggers, moment, self.saved)
        stops = [name.name for name in signal.Signals] + [TIME_LIMIT]
        code = 1 + stops.index(moment.stop) if moment.stop else 0
        code = int(trainer.strategy.reduce(torch.tensor(code, device=trainer.strategy.root_device), reduce_op="max"))
        moment = Moment(**{**vars(moment), "stop": stops[code - 1] if code else None})
        due = schedule.reasons(self.policy.triggers, moment, self.saved) if trainer.is_global_zero else ()
        return moment, trainer.strategy.broadcast(due)

    def _save(self, place: loop.Place, moment: Moment, due: tuple[str, ...]) -> None:
        started, trainer = time.monotonic(), self._the_trainer
        contents = self._contents(place, moment)
        self._last_save_s = moment.elapsed_s
        if trainer.is_global_zero:
            draft = Saved(
                name=layout.checkpoint_name(moment.position),
                position=moment.position,
                number=self.saved[-1].number + self.saved[-1].lasting if self.saved else 0,
                reasons=due,
                lasting=any(self.policy.triggers[name].lasting for name in due),
                score=moment.score if moment.score is not None and math.isfinite(moment.score) else None,
                metrics=_finite(trainer.callback_metrics),
                run=self.origin.run,
                elapsed_s=moment.elapsed_s,
                stall_s=time.monotonic() - started,
            )
            self._committed(self.writer.commit(contents, draft, self._provenance()))
        trainer.strategy.barrier("cairn.saved")

    def _committed(self, saved: Saved) -> None:
        self.saved = [item for item in self.saved if item.name != saved.name] + [saved]
        self.num_saves += 1
        self.total_stall_s += saved.stall_s
        self._tidy()

    def _tidy(self) -> None:
        """Move the links to what is committed, and only then delete what no rule keeps."""
        kept = retention.survivors(self.policy.rules.values(), self.saved, self.policy.mode)
        best = ranked(kept, self.policy.mode)[:1]
        self.writer.link(layout.LAST, kept[-1].name if kept else None)
        self.writer.link(layout.BEST, best[0].name if best else None)
        for item in [item for item in self.saved if item not in kept]:
            self.writer.remove(item.name)
        self.saved = kept
        self.last_model_path = str(self.policy.directory / kept[-1].name) if kept else ""
        self.best_model_path = str(self.policy.directory / best[0].name) if best else ""
        self.best_model_score = torch.tensor(best[0].score) if best else None

    def _contents(self, place: loop.Place, moment: Moment) -> dict[str, Any]:
        trainer = self._the_trainer
        contents = loop.dump(trainer)
        contents[state.KEY] = {
            "format": state.FORMAT,
            "place": place,
            "position": asdict(moment.position),
            "run": self.origin.run,
            "config": dict(self.origin.config),
            "should_stop": trainer.should_stop,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "loggers": _logger_states(trainer),
            "ranks": _gathered(self._rank_state(trainer), trainer),
            "clock": {
                "elapsed_s": moment.elapsed_s,
                "num_saves": self.num_saves + 1,
                "total_stall_s": self.total_stall_s,
            },
        }
        plain: dict[str, Any] = state.plain(contents)
        return plain

    def _rank_state(self, trainer: Trainer) -> dict[str, Any]:
        module = trainer.lightning_module
        return {
            "rng": state.rng_state(),
            "counters": loop.counters(trainer),
            "logged": sums.logged(trainer),
            "metrics": sums.metrics(module),
            "buffers": state.buffers(module, every=trainer.world_size > 1),
            "gradients": {} if module.automatic_optimization else state.gradients(module),
            "sync": loop.sync_flags(trainer),
            "callbacks": loop.callback_states(trainer) if trainer.global_rank > 0 else {},
        }

    def _stop_clock(self) -> None:
        self._elapsed_before, self._started = self.elapsed_s, None

    def _open_directory(self) -> None:
        """Take over what this run has committed; remove what its dead writers have left."""
        catalog, newest = Catalog(self.policy.directory), self.plan.saved
        committed = catalog.committed()
        if others := {item.run for item in committed} - {self.origin.run}:
            raise ConfigError(
                f"checkpoint.dirpath={self.policy.directory} holds checkpoints of another run ({', '.join(others)}): "
                f"give each run a directory of its own."
            )
        self.writer.sweep()
        for item in (*catalog.rejected(), *self.plan.rejected):
            self.writer.remove(item.path.name)
        self.saved = [item for item in committed if newest and item.position <= newest.position]
        if self.saved:
            self._tidy()

    def _goes_on(self) -> bool:
        """Is the loaded state one of this very run, and not what a new run starts from?"""
        return bool(self._loaded["run"] == self.origin.run)

    def _provenance(self) -> dict[str, Any]:
        return {"world_size": self._the_trainer.world_size, **self.origin.provenance}

    @property
    def _the_trainer(self) -> Trainer:
        assert self._trainer is not None, "attach(trainer) comes before fit"
        return self._trainer


def _checked(loaded: dict[str, Any], world_size: int) -> dict[str, Any]:
    if loaded["format"] > state.FORMAT:
        raise ResumeError(f"The checkpoint has format {loaded['format']}, and this Cairn reads up to {state.FORMAT}.")
    if len(loaded["ranks"]) != world_size:
        raise ResumeError(
            f"The checkpoint was saved by {len(loaded['ranks'])} processes and is loaded by {world_size}: an exact "
            f"resume needs as many (trainer.devices, trainer.num_nodes); init_weights=FILE takes the weights alone."
        )
    return loaded


def _keeps_its_place(trainer: Trainer) -> bool:
    """Does the datamodule save a position, or each loader?"""
    if trainer.datamodule is not None and trainer.datamodule.state_dict():
        return True
    loaders = trainer.train_dataloader
    flat = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    return all(hasattr(loader, "state_dict") for loader in flat)


def _logger_states(trainer: Trainer) -> dict[str, Any]:
    """Loggers that can say where they stand, by their class."""
    return {type(logger).__name__: logger.state_dict() for logger in trainer.loggers if hasattr(logger, "state_dict")}


def _each_logger(trainer: Trainer, states: Mapping[str, Any]) -> None:
    for logger in trainer.loggers:
        if hasattr(logger, "load_state_dict") and type(logger).__name__ in states:
            logger.load_state_dict(states[type(logger).__name__])


def _gathered(mine: dict[str, Any], trainer: Trainer) -> list[dict[str, Any]]:
    """The states of all ranks, in their order, on rank 0; elsewhere just a place holder."""
    if trainer.world_size == 1:
        return [mine]
    ranks: list[Any] = [None] * trainer.world_size
    torch.distributed.gather_object(mine, ranks if trainer.is_global_zero else None, dst=0)
    return ranks


def _num_samples(batch: Any) -> int:
    """The length of the first tensor in a batch; 1 for a batch without any."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 1
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((_num_samples(item) for item in items), 1)


def _finite(metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
