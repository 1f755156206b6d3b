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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from lightning.pytorch.loops.progress import _BatchProgress
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.data.global_batches import GlobalBatches
from cairn.data.loader import DataLoader
from cairn.data.substreams import StreamedBatches
from cairn.errors import ConfigError
from cairn.lightning.loops.calls import VirtualRanks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dealt:
    """How the training loaders of a fit deal out global batches."""

    per_window: int
    """Batches of this process in a global batch."""
    loader: DataLoader
    """The first of them."""
    is_alone: bool
    """Whether it is the only one."""
    is_even: bool = True
    """Whether all batches of a global batch have the same size, also in the last one of an epoch."""

    @property
    def num_virtual_ranks(self) -> int:
        """Batches of a global batch, of all processes, if they have virtual ranks."""
        found = self.loader.global_batches
        assert found is not None
        return found.share.num_virtual_ranks if isinstance(found, GlobalBatches) else found.division.num_batches

    def num_samples(self, batches: int) -> int:
        """Return the samples of the global batch that ends after these batches of an epoch; 0 if none ends there."""
        number, rest = divmod(batches, self.per_window)
        if rest:
            return 0
        found = self.loader.global_batches
        assert found is not None
        return found.size_of((number - 1) % found.number)  # a short loader may begin again

    def weight(self, batch: int) -> float:
        """Return the weight of a batch of this process in the mean over its global batch; 1 if that is complete.

        Batches of several loaders are trained on together: `begin` has made sure that they have the weight 1.
        """
        found = self.loader.global_batches
        assert found is not None
        return found.weight(batch) if self.is_alone else 1.0


def dealt(loaders: Sequence[Any], ranks: VirtualRanks | None = None) -> Dealt | None:
    """Return how training loaders deal out global batches; None if they do not.

    Args:
        loaders: The loaders.
        ranks: Virtual ranks of the run, if it has any.

    Raises:
        ConfigError: Only some of them do, or they do it differently; or none does, and there are virtual ranks.
        DataError: Global batches cannot be divided equally among the processes.
    """
    found = [(loader, _of(loader)) for loader in loaders]
    ours = [(loader, batches) for loader, batches in found if batches is not None]
    if not ours and ranks is not None:
        raise ConfigError(
            "elastic='bits' needs training data with global batches, which are the same on any number of processes: use"
            " cairn.DataLoader(..., global_batch_size=N), or data.global_batch_size=N.",
            parameter="elastic",
        )
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
    return Dealt(ours[0][1].per_window, ours[0][0], len(ours) == 1, all(batches.is_even for _, batches in ours))


def begin(trainer: Trainer, dealt: Dealt, configured: int, ranks: VirtualRanks | None = None) -> None:
    """Let the trainer accumulate the gradients of a global batch.

    Args:
        trainer: The trainer.
        dealt: How its loaders deal out global batches.
        configured: The accumulation that the trainer was given.
        ranks: Virtual ranks of the run, if it has any.

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
    elif not dealt.is_even and not (dealt.is_alone and trainer.lightning_module.automatic_optimization):
        why = "only the module could weight, as it has manual optimization"
        if not dealt.is_alone:
            why = "cannot be weighted, since those of several loaders are trained on together"
        why = f"the last one of an epoch has batches of different sizes, which {why}: use drop_last=True"
    if why:
        raise ConfigError(f"global_batch_size={size} decides how many batches are accumulated, and {why}.")
    if ranks is not None:
        ranks.deal(dealt)
    trainer.accumulate_grad_batches = per_window


@contextmanager
def explaining(trainer: Trainer) -> Iterator[None]:
    """Context in which an error about overfitting speaks of what the user has written.

    Raises:
        ConfigError: Lightning cannot replace the sampler of the loaders.
    """
    try:
        yield
    except TypeError as error:
        if trainer.overfit_batches > 0 and "batch sampler" in str(error):
            raise ConfigError(
                "overfit_batches replaces the sampler of the training loaders, which it cannot do with"
                " global_batch_size or a batch sampler: use limit_train_batches and a loader with shuffle=False.",
                parameter="overfit_batches",
            ) from error
        raise


def counted(loaders: Sequence[Any]) -> list[Any]:
    """Return loaders of a validation, with None in the place of those whose batches it takes as they are.

    Iterables are divided only where they are trained on.
    """
    found = [(loader, _of(loader)) for loader in loaders]
    return [loader if isinstance(batches, GlobalBatches) else None for loader, batches in found]


def _of(loader: Any) -> GlobalBatches | StreamedBatches | None:
    return loader.global_batches if isinstance(loader, DataLoader) else None


def announce(dealt: Dealt) -> None:
    """Say how global batches are shared by the processes, on rank 0."""
    size = dealt.loader.global_batch_size
    rank_zero_only(log.info)("Each global batch of %d samples is %s.", size, _of(dealt.loader))


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
