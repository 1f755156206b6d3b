"""Build the objects of a run from its settings: data, model, callbacks, loggers, checkpoint engine, trainer."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.plugins.environments import ClusterEnvironment, TorchElasticEnvironment
from omegaconf import ListConfig, OmegaConf

from cairn.account.progress import ProgressFile
from cairn.errors import ConfigError
from cairn.hydra.parse import tracker_settings, wandb_settings
from cairn.hydra.parse.objects import build_object, target_of
from cairn.hydra.run import hanging, provenance, proving, sharded
from cairn.hydra.run.init_weights import InitWeights
from cairn.hydra.run.start import JobContext, Start
from cairn.jobs.allocation import Deadline
from cairn.jobs.layout import layout
from cairn.lightning.agreement import JOB_TIME_LIMIT
from cairn.lightning.checkpointer import Checkpointer
from cairn.lightning.interrupts import WatchTraining
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.lightning.saved import unsaved
from cairn.lightning.step_environment import StepEnvironment
from cairn.lightning.torchrun import Attempt, TorchrunEnvironment
from cairn.trackers.logger import RowLogger
from cairn.wandb.logger import WandbLogger as OurWandbLogger


@dataclass(frozen=True)
class Built:
    """The trainer of a run, and the callback in it that saves checkpoints."""

    trainer: Trainer
    checkpoints: Checkpointer


def prepare(start: Start) -> None:
    """Prepare the process before any object is built: random seeds, log handlers, W&B's mode."""
    _silence_lightning()
    seed_everything(start.settings.seed, workers=True, verbose=False)
    wandb_settings.prepare(start.settings.config, start.directory.path)


def model(start: Start, weights: InitWeights) -> LightningModule:
    """Build the model. If `init_weights` names a file, a new run takes its weights from it."""
    built: LightningModule = sharded.built(start, lambda: build_object("model", start.settings.model))
    weights.give(built)
    return built


def trainer(start: Start, callbacks: Sequence[Callback], options: dict[str, Any]) -> Built:
    """Build the trainer with its callbacks, loggers and plugins.

    Args:
        start: Decisions of this start.
        callbacks: Callbacks in addition to those of the configuration.
        options: Arguments of Lightning's Trainer that override the configuration.
    """
    settings, checkpoints, options = start.settings, checkpointer(start), proving.options(options)
    configured = [build_object(f"callbacks.{name}", node) for name, node in settings.callbacks.items()]
    # The engine enforces max_time, at a boundary, and elastic; Lightning does not get them.
    node: Any = settings.trainer.node.copy()
    for name in ("max_time", "elastic"):
        node.pop(name, None)
    node.update(_started_processes(node))
    sharded.check({**node, **options})
    if (environment := _environment(start.context.attempt)) is not None:
        options = {**options, "plugins": with_environment({**node, **options}.get("plugins"), environment)}
        node.pop("plugins", None)
    if "logger" not in options:
        options = {**options, "logger": loggers(start)}
    all_callbacks = [*configured, *callbacks, WatchTraining(start.context.signals), checkpoints]
    all_callbacks = proving.callbacks(all_callbacks, checkpoints)
    built: Trainer = build_object("trainer", node, callbacks=all_callbacks, **options)
    check_launcher(built)
    if type(built.strategy.checkpoint_io) is TorchCheckpointIO:  # this one has the checkpoint open already
        built.strategy.checkpoint_io = start.loader
    _restore_metrics(start, built.loggers)
    if (number := sharded.batch_number(built)) > 0:
        # Weights are made from the same seed on every rank; random numbers in training (dropout) must differ.
        seed = np.random.SeedSequence([settings.seed, number]).generate_state(1)[0]
        seed_everything(int(seed), workers=True, verbose=False)
    return Built(built, checkpoints)


def _started_processes(node: Mapping[str, Any]) -> dict[str, int]:
    """Return `num_nodes` and `devices`, where they are `auto` and srun or torchrun knows them."""
    found, given = layout(), {}
    if node.get("num_nodes") == "auto":
        given["num_nodes"] = found.num_nodes if found else 1
    if found and node.get("devices") == "auto":  # otherwise Lightning takes all devices of this machine
        given["devices"] = found.per_node
    return given


def check_launcher(built: Trainer) -> None:
    """Check that each rank runs this program, as with `torchrun` or SLURM.

    Args:
        built: The trainer.

    Raises:
        ConfigError: The ranks are spawned or forked by this process, which would catch their signals.
    """
    method = getattr(built.strategy, "_start_method", "popen")
    if method != "popen":
        raise ConfigError(
            f"trainer.strategy starts its processes by {method}: a signal would stop this process, and not the "
            f"training in them. Use trainer.strategy=ddp.",
            parameter="trainer.strategy",
        )


def _environment(attempt: Attempt | None) -> ClusterEnvironment | None:
    """Return the environment of the launcher; None: the one that Lightning finds."""
    if TorchElasticEnvironment.detect():  # also inside of a SLURM job
        return TorchrunEnvironment(attempt)
    return StepEnvironment() if StepEnvironment.detect() else None


def with_environment(plugins: Any, environment: ClusterEnvironment) -> list[Any]:
    """Return the trainer's plugins with an environment, unless they have a cluster environment already.

    Args:
        plugins: One plugin or a list of them, as objects, names or nodes; None for none.
        environment: The environment.
    """
    several = isinstance(plugins, list | tuple | ListConfig)
    given = list(plugins) if several else [] if plugins is None else [plugins]
    built = [build_object("trainer.plugins", item) if isinstance(item, Mapping) else item for item in given]
    if any(isinstance(item, ClusterEnvironment) for item in built):
        return built
    return [*built, environment]


def checkpointer(start: Start) -> Checkpointer:
    """Build the callback that saves checkpoints; `fit` must be called with the checkpoint of `start.plan`."""
    settings, group = start.settings, proving.checkpoint(start.settings.checkpoint)
    origin = provenance.origin(settings.seed)
    built = Checkpointer(
        group.directory,
        None,
        monitor=group.monitor,
        mode=group.mode,
        triggers=dict.fromkeys(("best", "end", "stop")) | dict(group.triggers),
        rules=dict.fromkeys(("last", "best")) | dict(group.rules),
        writing=group.writing,
        audit=group.audit,
        watchdog=group.watchdog,
        max_time=settings.trainer.max_time_s,
        pause_at=start.pause_at,
        elastic=settings.trainer.elastic,
        stop=_reason_to_stop(start.context),
        metadata={"run": start.run_id, "config": OmegaConf.to_container(settings.config, resolve=True), **origin},
    )
    if settings.train:
        built.watchers.append(ProgressFile(start.directory.progress_file))
        built.at_hang = hanging.RecordAndRequeue(start)
    built.go_on_from(start.plan)
    return built


def loggers(start: Start) -> list[Logger]:
    """Build the loggers; none with `train=false`, which must not change the history of the run."""
    if not start.settings.train:
        return []
    built: list[Logger] = []
    for name, node in start.settings.loggers.items():
        more = wandb_settings.logger_arguments(start.settings.config, name, start.directory.path, start.run_id)
        target = target_of(f"logger.{name}", node)
        more |= tracker_settings.logger_arguments(node, target, start.directory.path, start.run_id)
        if not more and isinstance(target, type) and issubclass(target, WandbLogger):
            more = {"id": node.get("id") or start.run_id}
        built.append(build_object(f"logger.{name}", node, **more))
        if isinstance(built[-1], RowLogger):
            built[-1].is_closed_by_run = True
    tracker_settings.check_distinct(dict(zip(start.settings.loggers, built, strict=True)))
    return built


def _restore_metrics(start: Start, built: Sequence[Logger]) -> None:
    """Give the loggers that have a history their position before train.py can log anything, by trainer.validate().

    Otherwise the first row would replace the history, because the logger would assume that an attempt without a
    checkpoint wrote it. `fit` gives the position again, which removes rows that were logged in between.
    """
    if start.plan.path is None or start.plan.saved is None:
        return
    saved = start.loader.peek(start.plan.path)[unsaved.KEY]["loggers"]
    numbers: Counter[str] = Counter()
    for logger in built:
        name = type(logger).__name__
        position = saved.get(f"{name} {numbers[name]}")
        if position is not None and isinstance(logger, CSVLogger | OurWandbLogger | RowLogger):
            logger.load_state_dict(position)
        numbers[name] += 1


def _reason_to_stop(context: JobContext) -> Callable[[float], str | None]:
    """Return a function from the duration of a save, in seconds, to the reason to stop; called at each boundary."""
    signals, deadline = context.signals, Deadline(context.allocation.ends_at)
    return lambda save_s: signals.name or (JOB_TIME_LIMIT if deadline.is_near(save_s) else None)


def _silence_lightning() -> None:
    # Hydra's handlers print these messages too: without this, each would appear twice.
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
    # Lightning 2.6 uses a class that torch 2.13 has deprecated; a user cannot change that.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.. is deprecated.*")
