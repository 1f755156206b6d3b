"""The contents of a checkpoint as a plain dict, and how they are restored.

The dict is what Lightning saves, plus the key `cairn` with the state that Lightning does not save; see `collect.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torchmetrics import MetricTracker

from cairn.data import parallel, shuffles
from cairn.errors import ConfigError, ResumeError
from cairn.lightning.collect import Collected
from cairn.lightning.fsdp.refused import check_batchnorm
from cairn.lightning.fsdp.strategy import FSDP2Strategy
from cairn.lightning.logs import loggers
from cairn.lightning.loops import boundary, moved
from cairn.lightning.saved import pruning, resized, sums, unsaved
from cairn.lightning.saved.hyperparameters import plain_hyperparameters
from cairn.types import Position
from cairn.writing.encode import Constant


@dataclass(frozen=True)
class Origin:
    """Identity of the run that checkpoints belong to, which each of them stores."""

    run: str
    """Id of the run."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Stored in the checkpoint file."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Stored in the manifest."""

    @cached_property
    def encoded_config(self) -> Constant:
        """The configuration, as a checkpoint holds it."""
        return Constant(dict(self.config))


_NOT_RESUMABLE: Mapping[type[Callback], str] = {
    StochasticWeightAveraging: (
        "checkpoints do not contain its averages. Use lightning.pytorch.callbacks.EMAWeightAveraging instead."
    ),
}
"""Callbacks with hidden state, and what to do instead."""


def refuse(trainer: Trainer, module: LightningModule) -> None:
    """Refuse callbacks and metrics whose state is not in a checkpoint, and layers that cannot be trained.

    Raises:
        ConfigError: There is one; the message names a replacement.
    """
    supported = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | FSDP2Strategy)
    if not supported or isinstance(trainer.strategy, DeepSpeedStrategy):  # which derives from DDPStrategy
        raise ConfigError(
            f"{type(trainer.strategy).__name__} is not supported: a Checkpointer saves what one device holds, or what "
            f"cairn.FSDP2Strategy shards. Choose strategy='ddp' or strategy=cairn.FSDP2Strategy(), which has "
            f"tensor_parallel_size, too, or remove the Checkpointer."
        )
    check_batchnorm(trainer)
    for callback in trainer.callbacks:
        for kind, why in _NOT_RESUMABLE.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{kind.__name__} cannot be resumed, because {why}")
    if any(isinstance(part, MetricTracker) for part in module.modules()):
        raise ConfigError(
            "A torchmetrics.MetricTracker cannot be resumed, because it adds a metric in each epoch. Log the metric "
            "itself: metrics.csv keeps its history."
        )


def contents(
    collected: Collected,
    trainer: Trainer,
    place: boundary.Place,
    position: Position,
    origin: Origin,
    clock: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the contents of a checkpoint. Only the result on rank 0 is complete.

    Args:
        collected: What the ranks have collected.
        trainer: The trainer, at a boundary.
        place: Which of the two kinds of boundary this is.
        position: Position of the run.
        origin: The run.
        clock: State of `Telemetry`.

    Returns:
        The contents, with references to live tensors: copy them before the next batch.

    Raises:
        SaveError: On rank 0, a logger could not write the rows up to this position.
    """
    found = collected.contents
    found["loops"] = boundary.encoded_once(trainer, found["loops"])
    found[unsaved.KEY] = {
        "format": unsaved.FORMAT,
        "place": place,
        "position": dict(vars(position)),
        "run": origin.run,
        "config": origin.encoded_config,
        "should_stop": trainer.should_stop,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        **_divided(trainer),
        "threads": torch.get_num_threads(),
        "order": shuffles.of_run(),
        "loggers": loggers.states(trainer),
        "ranks": collected.ranks,
        "clock": dict(clock),
        "lazy": collected.lazy,
        "attributes": collected.attributes,
    }
    return plain_hyperparameters(found)


def _divided(trainer: Trainer) -> dict[str, Any]:
    """Return how the batches are divided among the processes, if not in the usual way."""
    size, number = boundary.global_batch_size(trainer), parallel.num_together()
    mesh = {} if number == 1 else {moved.MESH: [trainer.world_size // number, number]}
    return mesh if size is None else {"global_batch_size": size, **mesh}


def check(ours: Mapping[str, Any]) -> None:
    """Check that this version of Cairn can restore the state.

    Args:
        ours: Value of the key `cairn` in a checkpoint.

    Raises:
        ResumeError: The checkpoint was saved by a newer version of Cairn.
    """
    if ours["format"] > unsaved.FORMAT:
        raise ResumeError(
            f"The checkpoint has format {ours['format']}, but this version of Cairn reads formats up to "
            f"{unsaved.FORMAT}: install the version that saved it."
        )
    if (way := way_of_shuffling(ours)) not in shuffles.WAYS:
        raise ResumeError(
            f"The samples of this run are shuffled in the way {way!r}, which this version of Cairn does not know: "
            "install the version that saved the checkpoint."
        )


def way_of_shuffling(ours: Mapping[str, Any]) -> str:
    """Return the way in which the run shuffles its samples, see `cairn.data.shuffles`.

    Args:
        ours: Value of the key `cairn` in the checkpoint. Cairn 0.1 named no way.
    """
    return str(ours.get("order", shuffles.OLDEST))


def check_accumulation(configured: int, ours: Mapping[str, Any]) -> None:
    """Check that a resumed run accumulates gradients over as many batches as before.

    Args:
        configured: What the trainer was given, before any hook could change it.
        ours: Value of the key `cairn` in the checkpoint.

    Raises:
        ConfigError: It does not.
    """
    before = ours.get("accumulation_configured", ours["accumulate_grad_batches"])
    if before != configured:
        raise ConfigError(
            f"accumulate_grad_batches was {before} and is {configured}: a resumed run keeps it. Start a new run, or "
            f"use a GradientAccumulationScheduler."
        )


def is_scheduled(trainer: Trainer) -> bool:
    """Whether a callback of Lightning sets the accumulation of each epoch."""
    return any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks)


def warn_of_threads(trainer: Trainer, ours: Mapping[str, Any]) -> None:
    """Warn if this process trains on a CPU with a different number of threads."""
    # The number of threads determines the order of additions on a CPU, and so their rounding.
    before, now = ours["threads"], torch.get_num_threads()
    if before != now and trainer.strategy.root_device.type == "cpu":
        rank_zero_warn(
            f"The checkpoint was saved with {before} threads, but this process has {now}: the run continues, but its "
            f"results will not be bit-identical. Set OMP_NUM_THREADS={before} for that."
        )


def restore(trainer: Trainer, ours: Mapping[str, Any]) -> None:
    """Restore what Lightning does not restore.

    Args:
        trainer: The trainer, just before the first new batch.
        ours: Value of the key `cairn` in the checkpoint.
    """
    module, mine = trainer.lightning_module, ours["ranks"][trainer.global_rank]
    # Loaders decide over the accumulation of global batches: those of this run, not those of the checkpoint.
    is_dealt = boundary.global_batch_size(trainer) is not None or "global_batch_size" in ours
    configured = ours.get("accumulation_configured", ours["accumulate_grad_batches"])
    is_changed = is_scheduled(trainer) or configured != ours["accumulate_grad_batches"]  # by a callback, or a hook
    if is_changed and not is_dealt:
        trainer.accumulate_grad_batches = ours["accumulate_grad_batches"]
    pruning.restore(trainer, mine.get("pruning", {}))  # before what goes by the names of parameters and buffers
    boundary.set_counters(trainer, mine["counters"])
    sums.set_metrics(module, mine["metrics"])
    sums.set_logged(trainer, mine["logged"])
    unsaved.set_modes(module, mine["modes"])
    changed, own = resized.recorded({unsaved.KEY: ours}), mine["buffers"]
    unsaved.set_buffers(module, own, replaced=changed)
    resized.restore(module, changed, own, is_alone=trainer.world_size == 1)
    gradients = mine["gradients"]
    unsaved.set_gradients(module, ours["ranks"][0]["gradients"] if gradients is None else gradients)
    boundary.set_virtual_state(trainer, mine)
    boundary.set_sync_flags(trainer, mine["sync"])
    for callback in trainer.callbacks:
        if callback.state_key in mine["callbacks"]:
            callback.load_state_dict(mine["callbacks"][callback.state_key])
    unsaved.set_rng_state(mine["rng"])  # last: the calls above may draw random numbers
