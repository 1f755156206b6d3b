"""Global batches in Lightning's loops, which count the batches of one process.

    configured           limit_train_batches, val_check_interval, accumulation of 1       in global batches
    for one process      limits, interval and accumulation of the loops                   in batches of its own
    a checkpoint         counters of the loops                                            in batches of its own
    a resume             the counters times (batches in a global batch now) / (before)

A resume on another number of processes has other batches of its own, and the same global batches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from lightning.pytorch.loops.progress import _BatchProgress

from cairn.data.loader import DataLoader
from cairn.data.substreams import StreamedBatches
from cairn.data.windows import GlobalBatches
from cairn.errors import ConfigError, ResumeError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedBy:
    """Who has saved a checkpoint."""

    world_size: int
    """Number of processes."""
    global_batch_size: int | None
    """None: each process had batches of its own."""
    accumulation: int
    """Batches of each process between two steps of the optimizer."""
    batch_size: int | None = None
    """Of the first training loader, if it is a `cairn.DataLoader` without global batches."""

    @property
    def per_window(self) -> int:
        """Batches of each process that counted as one."""
        return 1 if self.global_batch_size is None else self.accumulation

    @property
    def num_samples(self) -> int | None:
        """Samples between two steps of the optimizer, on all processes; None: unknown."""
        if self.global_batch_size is not None or self.batch_size is None:
            return self.global_batch_size
        return self.batch_size * self.world_size * self.accumulation


@dataclass(frozen=True)
class Dealt:
    """How the training loaders of a fit deal out global batches."""

    per_window: int
    """Batches of this process in a global batch."""
    loader: DataLoader
    """The first of them."""

    def num_samples(self, batches: int) -> int:
        """Return the samples of the global batch that ends after these batches of an epoch; 0 if none ends there."""
        number, rest = divmod(batches, self.per_window)
        if rest:
            return 0
        found = self.loader.global_batches
        assert found is not None
        return found.size_of(number - 1)

    def weight(self, batch: int) -> float:
        """Return the weight of a batch of this process in the mean over its global batch; 1 if that is complete."""
        found = self.loader.global_batches
        assert found is not None
        return found.weight(batch)


def dealt(loaders: Sequence[Any]) -> Dealt | None:
    """Return how training loaders deal out global batches; None if they do not.

    Raises:
        ConfigError: Only some of them do, or they do it differently.
        DataError: Global batches cannot be divided equally among the processes.
    """
    found = [(loader, _of(loader)) for loader in loaders]
    ours = [(loader, batches) for loader, batches in found if batches is not None]
    if not ours:
        return None
    if others := sorted({type(loader).__name__ for loader, batches in found if batches is None}):
        raise ConfigError(
            f"Some training loaders have a global_batch_size and others have none ({', '.join(others)}): give it to"
            f" each of them, as cairn.DataLoader(..., global_batch_size=N), or to none.",
            parameter="global_batch_size",
        )
    for _, batches in ours:
        batches.check_even()
    if len({batches.per_window for _, batches in ours}) > 1:
        ways = "; ".join(sorted({f"{batches.size} samples: {batches}" for _, batches in ours}))
        raise ConfigError(
            f"The training loaders divide their global batches differently ({ways}): choose batch sizes that give each"
            f" process as many batches of each loader.",
            parameter="global_batch_size",
        )
    return Dealt(ours[0][1].per_window, ours[0][0])


def check(saved_by: SavedBy, dealt: Dealt | None, world_size: int) -> None:
    """Check that the global batches of a resumed run are those that it had before.

    Args:
        saved_by: Who has saved the checkpoint.
        dealt: How the loaders of this process deal out global batches.
        world_size: Number of processes.

    Raises:
        ResumeError: They are not; the message says how they can be.
    """
    before, many = saved_by.num_samples, f"{saved_by.world_size} process{'es' if saved_by.world_size > 1 else ''}"
    if dealt is None:
        if saved_by.world_size == world_size:
            return
        text = f"The checkpoint was saved by {many}, but this run has {world_size}"
        if before is None:
            raise ResumeError(f"{text}. {_SAME_NUMBER}")
        if saved_by.global_batch_size is None and saved_by.accumulation > 1:
            raise ResumeError(f"{text}, which would change its global batch of {before} samples. {_SAME_NUMBER}")
        raise ResumeError(
            f"{text}, which would change its global batch of {before} samples: set global_batch_size={before} on the"
            f" training loaders or the cairn.DataModule (data.global_batch_size={before}) to go on with any number of"
            f" processes that divides it, or use {many}."
        )
    if saved_by.global_batch_size is not None or before is None:
        return
    size = dealt.loader.global_batch_size
    if before != size or saved_by.accumulation > 1:
        why = f" with accumulate_grad_batches={saved_by.accumulation}" if saved_by.accumulation > 1 else ""
        raise ResumeError(
            f"The checkpoint was saved by {many} without global_batch_size{why}, with {before} samples between two"
            f" steps, and now global_batch_size={size}"
            + (": its batches cannot be counted as global ones. Go on without it." if why else f": set it to {before}.")
        )


_SAME_NUMBER = (
    "An exact resume needs the same number: change devices or num_nodes of the Trainer, or start a new run from the "
    "weights alone."
)


def begin(trainer: Trainer, dealt: Dealt, configured: int) -> None:
    """Let the trainer accumulate the gradients of a global batch.

    Args:
        trainer: The trainer.
        dealt: How its loaders deal out global batches.
        configured: The accumulation that the trainer was given.

    Raises:
        ConfigError: Something else decides over the accumulation.
    """
    size, per_window = dealt.loader.global_batch_size, dealt.per_window
    why = ""
    if configured != 1:
        why = f"accumulate_grad_batches={configured} contradicts it: leave that out"
    elif scheduler := _first(trainer, GradientAccumulationScheduler):
        why = f"{scheduler} contradicts it: remove it"
    elif finder := _first(trainer, BatchSizeFinder):
        why = f"{finder} cannot search with it: find batch_size without it"
    elif not trainer.lightning_module.automatic_optimization and per_window > 1:
        why = (
            f"this process needs {per_window} batches for one, which only the module could accumulate, as it has manual"
            f" optimization: choose a larger batch_size, or more processes"
        )
    if why:
        raise ConfigError(f"global_batch_size={size} decides how many batches are accumulated, and {why}.")
    if trainer.accumulate_grad_batches != per_window or per_window == 1:
        log.info("Each global batch of %d samples is %s.", size, dealt.loader.global_batches)
    trainer.accumulate_grad_batches = per_window


def counted(loaders: Sequence[Any]) -> list[Any]:
    """Return loaders of a validation, with None in the place of those whose batches it takes as they are.

    Iterables are divided only where they are trained on.
    """
    found = [(loader, _of(loader)) for loader in loaders]
    return [loader if isinstance(batches, GlobalBatches) else None for loader, batches in found]


def _of(loader: Any) -> GlobalBatches | StreamedBatches | None:
    return loader.global_batches if isinstance(loader, DataLoader) else None


def _first(trainer: Trainer, kind: type) -> str:
    return next((type(item).__name__ for item in trainer.callbacks if isinstance(item, kind)), "")


def limits(loaders: Sequence[Any], limit_batches: float, num_batches: Sequence[float] | None) -> list[float]:
    """Return how many batches of this process a loop takes from each loader.

    Args:
        loaders: The loaders.
        limit_batches: A number of global batches, or a part of them as a float.
        num_batches: What Lightning has computed from it, for loaders without global batches.
    """
    found = []
    for loader, number in zip(loaders, num_batches or (), strict=True):
        batches = _of(loader)
        if batches is not None and number and isinstance(limit_batches, int):
            number = batches.batches_in(limit_batches)
        elif number and isinstance(batches, GlobalBatches):  # of an iterable all, if not a number of them
            number = batches.batches_in(max(1, int(batches.number * limit_batches)))
        found.append(number)
    return found


def val_check_batch(trainer: Trainer, dealt: Dealt, max_batches: float) -> float | None:
    """Return after how many batches of this process a validation is due.

    Args:
        trainer: The trainer; Lightning has read `val_check_interval` as a number of such batches.
        dealt: How the loaders deal out global batches.
        max_batches: Batches of this process in an epoch.

    Raises:
        ConfigError: It is due after more global batches than an epoch has.
    """
    every, per_window = trainer.val_check_interval, dealt.per_window
    if trainer.val_check_batch is None:  # by time
        return None
    if not isinstance(every, int) and math.isinf(max_batches):
        return float(trainer.val_check_batch)
    if not isinstance(every, int):
        return max(1, int(max_batches // per_window * every)) * per_window
    if every * per_window > max_batches and trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches:
        raise ConfigError(
            f"val_check_interval={every} is longer than an epoch, which has {int(max_batches) // per_window} global"
            f" batches. Set it to at most this, or set check_val_every_n_epoch to None to count through all epochs.",
            parameter="val_check_interval",
        )
    return every * per_window


def convert(progress: _BatchProgress, before: int, now: int) -> None:
    """Convert counters of a checkpoint, which was saved after a complete global batch.

    Args:
        progress: Counts batches of one process.
        before: Such batches in a global batch, when the checkpoint was saved.
        now: The same in this process.
    """
    for counts in (progress.total, progress.current):
        for name, count in vars(counts).items():
            setattr(counts, name, count // before * now)
