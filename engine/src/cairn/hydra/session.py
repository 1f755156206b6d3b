"""Composition root: configuration -> objects -> what to go on from -> fit -> test -> report. Knows everybody."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from cairn.account.progress import ProgressFile
from cairn.errors import CairnError, CheckpointError, ConfigError, ResumeError, SaveError, first_line
from cairn.hydra import command_line, provenance, settings, wandb_settings
from cairn.jobs import rendezvous
from cairn.jobs.allocation import Allocation, Deadline
from cairn.jobs.signals import Leave, StopSignals, exit_code
from cairn.lightning.agreement import JOB_TIME_LIMIT, TIME_LIMIT
from cairn.lightning.capture import Origin
from cairn.lightning.checkpointer import CheckpointEngine, Policy, Stopped
from cairn.lightning.interrupts import WatchTraining
from cairn.lightning.io import MappedCheckpointIO
from cairn.policy import when
from cairn.runs import attempts, summary
from cairn.runs.directory import Record, RunDirectory
from cairn.store import names, resume
from cairn.store.catalog import Catalog
from cairn.store.resume import Plan
from cairn.wandb import run as wandb_run
from cairn.wandb import start as wandb_start

log = logging.getLogger(__name__)

_DYING_S = 120.0
"""What was left of a job when it was requeued may take so long to end."""


@dataclass(frozen=True)
class Job:
    """What the scheduler, or a person, may want of this process."""

    signals: StopSignals = field(default_factory=StopSignals)
    given: Allocation = field(default_factory=Allocation)


@dataclass(frozen=True)
class Parts:
    """The objects of a run."""

    data: LightningDataModule
    model: LightningModule
    trainer: Trainer
    engine: CheckpointEngine
    directory: RunDirectory
    signals: StopSignals


def run(cfg: DictConfig, job: Job) -> float | None:
    """Train as `cfg` says, in the run directory that Hydra has made; go on where the run in it has stopped.

    Args:
        cfg: as Hydra has composed it.
        job: what may stop the run before its end.

    Returns:
        The value of `cfg.optimized_metric`, for a sweeper.

    Raises:
        Leave: it was stopped, by a signal or by what is left of its job's time, and is saved.
        SystemExit: 1 after an error that a sentence can tell.
    """
    hydra = HydraConfig.get()
    directory = RunDirectory(Path(hydra.runtime.output_dir))
    own = rendezvous.place()
    notice = rendezvous.Notice(directory.path, own)
    if own.rank > 0:
        _follow(notice, directory, job)
        return None
    try:
        with _own_environment(), _sentences(directory, job.signals, alone=hydra.mode == RunMode.RUN):
            return _lead(cfg, directory, tuple(hydra.overrides.task), notice, job)
    finally:
        notice.tell(None)


def _lead(
    cfg: DictConfig, directory: RunDirectory, overrides: tuple[str, ...], notice: rendezvous.Notice, job: Job
) -> float | None:
    """Decide what this start does, tell it those who take part, and train."""
    merged, old = _configuration(cfg, directory, overrides)
    settings.check(merged.config)
    if old is not None and old.status == "finished" and not merged.changed:
        return _already_finished(directory, old)
    if merged.config.get("train"):
        directory.lock(_DYING_S if job.given.scheduler else 0.0)
        resume.wait_for_writers(Path(merged.config.checkpoint.dirpath))
    plan = _plan(merged.config, directory, old)
    if _time_is_up(merged.config, plan):
        return None
    loader = MappedCheckpointIO()
    if plan.path is not None:  # before anything is written: a refusal leaves the run as it was
        resume.check_goes_on(plan.path, loader.peek(plan.path), merged.config.trainer.get("max_epochs"))
    if not merged.config.get("train"):
        return _only_test(merged.config, directory, old, plan, job)
    if plan.path is None and merged.config.get("init_weights"):
        # Once, and before the other ranks are informed: each of them would fetch it.
        wandb_start.local_file(merged.config.init_weights, directory.path)
    attempts.note(directory, old, plan.saved, job.given.job)
    record = directory.start(merged.config.task_name, overrides, OmegaConf.to_yaml(merged.config))
    facts = {"config": str(directory.config_file), "run": record.id, "start": str(plan.path) if plan.path else None}
    command_line.announce_children(**facts)
    notice.tell(facts)
    summary.show_config(OmegaConf.to_container(merged.config), Console())  # type: ignore[arg-type]
    _tell_start(directory, merged, plan, job.given)
    return _train(merged.config, directory, record.id, plan, loader, job)


def _only_test(cfg: DictConfig, directory: RunDirectory, old: Record | None, plan: Plan, job: Job) -> float | None:
    """`train=false`: test the file that is named, or the best of the run; the run itself stays as it is."""
    best = Path(cfg.checkpoint.dirpath) / names.BEST
    path = _first_whole([best.resolve()] if plan.saved is not None and best.is_file() else []) or plan.path
    if path is None and not cfg.get("init_weights"):
        raise ConfigError("train=false tests nothing yet: name the weights by ckpt_path=, init_weights= or resume=.")
    return _train(cfg, directory, old.id if old else "test", Plan(path, plan.saved), MappedCheckpointIO(), job)


def _follow(notice: rendezvous.Notice, directory: RunDirectory, job: Job) -> None:
    """Take part in the run of the first process of this start."""
    facts = notice.wait()
    if facts is not None and facts["config"] is not None and facts["run"] is not None:
        _join(facts["config"], facts["run"], facts["start"], job)


def join(config: str, run: str, start: str | None) -> None:
    """Take part in a run as one of the processes that Lightning has started; the main one has decided everything."""
    with StopSignals() as signals:
        _join(config, run, start, Job(signals))


def _join(config: str, run: str, start: str | None, job: Job) -> None:
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    directory = RunDirectory(Path(config).parent)
    try:
        with _own_environment():
            _train(cfg, directory, run, Plan(Path(start) if start else None), MappedCheckpointIO(), job)
    except (Stopped, SaveError):  # as all processes of the run do
        pass  # exit 0: who has started them kills the main process, which may still be busy, when another one fails


def _train(
    cfg: DictConfig, directory: RunDirectory, run_id: str, plan: Plan, loader: MappedCheckpointIO, job: Job
) -> float | None:
    parts = build(cfg, directory, run_id, plan, loader, job)
    code, stopped_by, finished = 1, "", False
    try:
        _introduce(parts, cfg, plan, loader)
        why = _fit(parts, cfg, plan, loader)
        metrics = _numbers(parts.trainer.callback_metrics)
        test = _test(parts, cfg, plan) if cfg.get("test") else None
        result = _result(cfg, {**metrics, **(test or {})})
        code, finished = 0, not why
        # Before the end waits for anybody: however that ends, the run is what it is.
        _end(parts, cfg, directory, "stopped" if why else "finished", why, test, result)
    except (Stopped, KeyboardInterrupt, SystemExit) as leave:  # a SystemExit is what Lightning makes of the others
        stopped_by = leave.why if isinstance(leave, Stopped) else parts.signals.name or ""
        if not stopped_by:
            raise
        code = exit_code(stopped_by)
        _end(parts, cfg, directory, "stopped", stopped_by)
        if isinstance(leave, Stopped) and not parts.trainer.is_global_zero:
            raise
        raise Leave(stopped_by) from leave
    except Exception:
        if stopped_by := _broken_by(parts.signals):
            code = exit_code(stopped_by)
        raise
    finally:
        ending = wandb_run.ExitStatus(code, stopped_by, finished)
        wandb_run.end(parts.engine.listeners, parts.trainer.loggers, ending, wandb_settings.wait_s(cfg))
    return result


def _broken_by(signals: StopSignals) -> str:
    """The signal that has ended what the run needs, a worker of its data for example, so that an error came of it."""
    name = signals.name or ""
    return "" if name == "SIGINT" else name


def _introduce(parts: Parts, cfg: DictConfig, plan: Plan, loader: MappedCheckpointIO) -> None:
    """Tell the loggers what run this is, and who tracks checkpoints which there will be."""
    if not parts.trainer.is_global_zero:
        return
    named, origin, directory = cfg.get("ckpt_path") or cfg.get("init_weights"), parts.engine.origin, parts.directory
    start = None
    if plan.saved is None and named:
        contents = loader.peek(plan.path or wandb_start.local_file(named, directory.path))
        version = wandb_start.fetched_version(named, directory.path)
        start = provenance.start(cfg, contents, version, wandb_settings.known_as(contents))
    num_parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    record = directory.record()
    overrides = record.overrides if record else ()
    facts = provenance.facts(directory.path, origin.provenance["git"], num_parameters, start, overrides)
    wandb_run.log_run(directory.path, parts.trainer.loggers, origin.config, facts)
    parts.engine.listeners = wandb_settings.listeners(cfg, parts.trainer.loggers, directory.path, facts)


def build(
    cfg: DictConfig,
    directory: RunDirectory,
    run_id: str,
    plan: Plan,
    loader: MappedCheckpointIO,
    job: Job,
) -> Parts:
    """Make the objects that the configuration names."""
    _quiet_lightning()
    seed_everything(cfg.seed, workers=True, verbose=False)
    wandb_settings.prepare(cfg, directory.path)
    data: LightningDataModule = _make("data", cfg.data)
    model: LightningModule = _make("model", cfg.model)
    origin = Origin(run_id, OmegaConf.to_container(cfg, resolve=True), provenance.versions(cfg.seed))  # type: ignore[arg-type]
    onlookers = ProgressFile(directory.progress_file) if cfg.get("train") else None
    engine = CheckpointEngine(_policy(cfg), origin, plan, _stop(job), onlookers)
    named = {name: node for name, node in cfg.get("callbacks", {}).items() if node and "_target_" in node}
    callbacks = [
        *(_make(f"callbacks.{name}", node) for name, node in named.items()),
        WatchTraining(job.signals),
        engine,
    ]
    settings = {key: value for key, value in cfg.trainer.items() if key != "max_time"}  # ours: it stops at a boundary
    if SLURMEnvironment.detect() and "plugins" not in settings:
        settings["plugins"] = [SLURMEnvironment(auto_requeue=False)]  # one party requeues, and it is not Lightning
    trainer: Trainer = _make("trainer", settings, callbacks=callbacks, logger=_loggers(cfg, run_id, directory))
    engine.attach(trainer, loader)
    if trainer.global_rank > 0:
        # The weights are made from one seed; what is drawn in training (dropout) must not be the same on every rank.
        own = np.random.SeedSequence([cfg.seed, trainer.global_rank]).generate_state(1)[0]
        seed_everything(int(own), workers=True, verbose=False)
    return Parts(data, model, trainer, engine, directory, job.signals)


def _stop(job: Job) -> Callable[[float], str | None]:
    """What the engine asks at each boundary."""
    deadline = Deadline(job.given.ends_at)
    return lambda save_s: job.signals.name or (JOB_TIME_LIMIT if deadline.is_near(save_s) else None)


def _fit(parts: Parts, cfg: DictConfig, plan: Plan, loader: MappedCheckpointIO) -> str:
    """Fit; returns what stopped it, if that is no reason to leave at once."""
    if plan.path is None and cfg.get("init_weights"):
        _take_weights(parts.model, wandb_start.local_file(cfg.init_weights, parts.directory.path))
    if not cfg.get("train"):
        return ""
    if plan.path is not None and not is_overridden("configure_model", parts.model):  # else there are no weights yet
        resume.check_fits(plan.path, loader.peek(plan.path)["state_dict"], parts.model.state_dict())
    try:
        path = str(plan.path) if plan.path else None
        parts.trainer.fit(parts.model, datamodule=parts.data, ckpt_path=path, weights_only=True)
    except Stopped as stopped:
        if stopped.why != TIME_LIMIT:
            raise
        return TIME_LIMIT
    if parts.signals.received:  # after the last boundary; everything is saved
        raise KeyboardInterrupt
    return ""


def _test(parts: Parts, cfg: DictConfig, plan: Plan) -> dict[str, float] | None:
    """Test the best checkpoint, else the last, else the weights as they are."""
    if not is_overridden("test_step", parts.model):
        log.info("Not tested: %s has no test_step.", type(parts.model).__name__)
        return None
    ours = (parts.engine.best_model_path, parts.engine.last_model_path)  # known on rank 0
    path = _first_whole(Path(path) for path in ours if path) if cfg.get("train") else plan.path
    chosen = parts.trainer.strategy.broadcast(str(path or "")) or None
    scores = parts.trainer.test(parts.model, datamodule=parts.data, ckpt_path=chosen, weights_only=True, verbose=False)
    return _numbers({name: value for scores_of_loader in scores for name, value in scores_of_loader.items()})


def _first_whole(paths: Iterable[Path]) -> Path | None:
    """The first of these checkpoints that is whole; what is passed over is told."""
    for path in paths:
        try:
            resume.load(path)
            return path
        except CheckpointError as error:
            log.warning("Not tested: %s", error)
    return None


def _end(
    parts: Parts,
    cfg: DictConfig,
    directory: RunDirectory,
    status: str,
    why: str = "",
    test: Mapping[str, float] | None = None,
    result: float | None = None,
) -> None:
    if not parts.trainer.is_global_zero:
        return
    if cfg.get("train"):
        directory.end(status, why, result)
    engine = parts.engine
    best = engine.history.best
    ending = summary.Ending(
        run=directory.path,
        checkpoints=engine.policy.directory,
        status=f"stopped by {why}" if why else status if cfg.get("train") else "tested",
        saved=engine.history.saved,
        best=best.name if best else "",
        monitor=engine.policy.monitor,
        test=test,
        num_saves=engine.telemetry.num_saves,
        num_failed=engine.failures.total,
        num_skipped=engine.telemetry.meter.num_skipped,
        stall_s=engine.telemetry.meter.total_stall_s,
        overhead=engine.telemetry.overhead,
        at_risk_s=engine.telemetry.at_risk_s,
        more=_more(parts.trainer, cfg, why),
    )
    summary.show_ending(ending, Console())


def _more(trainer: Trainer, cfg: DictConfig, why: str) -> str:
    """The override that lets the run go on beyond what ended it, for example twice as far."""
    if why == TIME_LIMIT:
        return f"trainer.max_time={2 * (_time_limit_s(cfg) or 0):g}s"
    if why:
        return ""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"trainer.max_steps={2 * trainer.max_steps}"
    return f"trainer.max_epochs={2 * (trainer.max_epochs or 0)}"


def _configuration(
    cfg: DictConfig, directory: RunDirectory, overrides: tuple[str, ...]
) -> tuple[settings.Merged, Record | None]:
    """The run's own configuration with what the command line changes; for a new run, just what was composed."""
    now = _resolved(cfg)
    record = directory.record()
    if record is None:
        return settings.Merged(now, {}, {}, {}, own=False), None
    own = directory.config()
    fresh = [override for override in overrides if override not in record.overrides]
    before = _resolved(_compose(record.overrides))
    own = settings.moved(own, now)
    return settings.merge(own, before, now, [command_line.key(override) for override in fresh]), record


def _compose(overrides: tuple[str, ...]) -> DictConfig:
    """Compose a configuration from today's files, in this process's Hydra."""
    name = HydraConfig.get().job.config_name
    cfg = GlobalHydra.instance().config_loader().load_configuration(name, list(overrides), run_mode=RunMode.RUN)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def _resolved(cfg: DictConfig) -> DictConfig:
    """All interpolations filled in, and `checkpoint.dirpath` the same from whatever folder the run goes on."""
    resolved: DictConfig = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    if resolved.checkpoint.dirpath is not None:
        resolved.checkpoint.dirpath = str(Path(resolved.checkpoint.dirpath).absolute())
    return resolved


def _plan(cfg: DictConfig, directory: RunDirectory, old: Record | None) -> Plan:
    """What this start goes on from: the run's own newest checkpoint, else the file that it was told."""
    own = resume.plan(Path(cfg.checkpoint.dirpath))
    if own.saved is not None and old is None:
        raise ResumeError(
            f"{cfg.checkpoint.dirpath} holds checkpoints, and {directory.path} has no run.json that says whose they "
            f"are: choose another directory, or ckpt_path= one of them into a new run."
        )
    if own.path is not None or not cfg.get("ckpt_path"):
        return own
    path = wandb_start.local_file(cfg.ckpt_path, directory.path)
    resume.load(path)
    return Plan(path.resolve(), None, own.rejected)


def _already_finished(directory: RunDirectory, record: Record) -> float | None:
    more = summary.command(directory.path, "trainer.max_epochs=NUMBER")
    log.info("This run is finished: %s. To extend it: %s", summary.relative(directory.path), more)
    return record.result


def _time_is_up(cfg: DictConfig, plan: Plan) -> bool:
    """Has the run trained for all of `trainer.max_time` already?"""
    limit = _time_limit_s(cfg)
    if limit is None or plan.saved is None or plan.saved.elapsed_s < limit:
        return False
    log.info("The run has used up trainer.max_time=%s. To go on, give it more.", cfg.trainer.max_time)
    return True


def _tell_start(directory: RunDirectory, merged: settings.Merged, plan: Plan, given: Allocation) -> None:
    log.info("Run directory: %s", summary.relative(directory.path))
    if given.scheduler:
        log.info("%s", given)
    if plan.path and plan.saved and Catalog(plan.path.parent).leftovers():
        log.warning("The last save was cut off: the one before it is what counts.")
    for item in plan.rejected:
        log.warning("Not used: %s, because %s.", item.path.name, item.why)
    if plan.path is not None:
        log.info("%s from %s", "Going on" if plan.saved else "Starting", summary.relative(plan.path))
    elif merged.own:
        log.warning("There is no checkpoint of this run yet: it starts from the beginning.")
    if merged.changed:
        log.info("Changed by this command: %s", settings.tell(merged.changed))
    if merged.kept:
        log.info("Unchanged, because the run has begun with it: %s", settings.tell(merged.kept))
    if merged.edited:
        log.warning("Edited in configs/ since the run began, without effect on it: %s", settings.tell(merged.edited))


def _take_weights(model: LightningModule, path: Path) -> None:
    weights = resume.load(path)["state_dict"]
    resume.check_fits(path, weights, model.state_dict())
    model.load_state_dict(weights)
    log.info("Weights from %s", summary.relative(path))


def _make(key: str, node: Any, **more: Any) -> Any:
    """The object that a node of the configuration describes.

    Raises:
        ConfigError: its arguments are wrong; the node is named.
    """
    try:
        return instantiate(node, **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, CairnError):
            raise cause from error
        raise ConfigError(f"{key}: {str(cause).rstrip('.!')}. HYDRA_FULL_ERROR=1 shows where.") from error


def _policy(cfg: DictConfig) -> Policy:
    group = cfg.checkpoint
    return Policy(
        directory=Path(group.dirpath),
        triggers={name: _make(f"checkpoint.triggers.{name}", node) for name, node in group.triggers.items()},
        rules={name: _make(f"checkpoint.keep.{name}", node) for name, node in group.keep.items()},
        monitor=group.monitor,
        mode=group.mode,
        max_time_s=_time_limit_s(cfg),
        max_failed_saves=group.get("max_failed_saves", 3),
        **{key: group[key] for key in ("writer", "buffers", "overlap", "when_busy") if key in group},
    )


def _time_limit_s(cfg: DictConfig) -> float | None:
    limit = cfg.trainer.get("max_time")
    return None if limit is None else when.parse_duration_s(_plain(limit))


def _loggers(cfg: DictConfig, run_id: str, directory: RunDirectory) -> list[Logger]:
    loggers: list[Logger] = []
    for name, node in cfg.get("logger", {}).items() if cfg.get("train") else ():  # a test alone leaves a run as it is
        own = wandb_settings.logger_arguments(cfg, name, directory.path, run_id)
        if not own and node["_target_"].endswith("WandbLogger"):
            own = {"id": node.get("id") or run_id}
        loggers.append(_make(f"logger.{name}", node, **own))
    return loggers


def _quiet_lightning() -> None:
    """Say everything once: Hydra's handlers print what Lightning's own print again."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
    # Lightning's own code against torch 2.13; nothing that a user could change.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.. is deprecated.*")


def _result(cfg: DictConfig, metrics: Mapping[str, float]) -> float | None:
    name = cfg.get("optimized_metric")
    if name is None:
        return None
    if name not in metrics:
        raise CairnError(f"optimized_metric={name!r} was not logged; what was: {', '.join(sorted(metrics))}.")
    return metrics[name]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


@contextmanager
def _sentences(directory: RunDirectory, signals: StopSignals, alone: bool) -> Iterator[None]:
    """Tell an error as a sentence and exit; after any other, say what the run can go on from.

    In a sweep the exception goes on instead, so that the other jobs are run and the launcher knows.
    """
    try:
        yield
    except Exception as error:
        if name := _broken_by(signals):
            log.warning("After %s: %s: %s", name, type(error).__name__, first_line(error), exc_info=True)
            directory.end("stopped", name)
            raise Leave(name) from error
        ours = isinstance(error, (CairnError, MisconfigurationException))  # Lightning's are sentences as well
        directory.end("failed", str(error) if ours else f"{type(error).__name__}: {error}")
        if ours:
            log.error("%s", error)
        elif not alone:
            log.error("%s: %s", type(error).__name__, first_line(error), exc_info=True)  # into the job's own log
        if directory.started and (newest := _newest(directory)) is not None:
            log.error("Newest checkpoint: %s. Go on from it with: %s", newest, summary.command(directory.path))
        if not ours or not alone or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise SystemExit(1) from error


def _newest(directory: RunDirectory) -> str | None:
    """The name of the newest committed checkpoint."""
    saved = Catalog(Path(directory.config().checkpoint.dirpath)).committed()
    return saved[-1].name if saved else None


@contextmanager
def _own_environment() -> Iterator[None]:
    """Leave no trace of DDP and W&B: the next job of a sweep, in this process, starts its own."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        own = {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
        own |= {name for name in os.environ if name.startswith("WANDB_")}
        for name in own:
            os.environ.pop(name, None) if name not in before else os.environ.update({name: before[name]})
