"""Parts of a trainer's loops: loaders, fetchers and counters."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.plugins.environments import SLURMEnvironment

from cairn.lightning.loops.dealing import Dealt


def per_window(trainer: Trainer) -> int:
    """Return the number of batches of this process that count as one: those of a global batch, or 1 without any."""
    return getattr(trainer.fit_loop.epoch_loop, "per_window", 1)


def global_batch_size(trainer: Trainer) -> int | None:
    """Return the number of samples in a global batch; None if the loaders do not deal out any."""
    dealt: Dealt | None = getattr(trainer.fit_loop.epoch_loop, "dealt", None)
    return None if dealt is None else dealt.loader.global_batch_size


def steps(trainer: Trainer) -> Any:
    """Return the counter whose attribute `completed` is `trainer.global_step`, for a shorter way to it."""
    loop, module = trainer.fit_loop.epoch_loop, trainer.lightning_module
    if module.automatic_optimization:
        return loop.automatic_optimization.optim_progress.optimizer.step.total
    return loop.manual_optimization.optim_step_progress.total


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders that training uses, after Lightning has replaced some of them."""
    combined = trainer.fit_loop._combined_loader
    return list(combined.flattened) if combined is not None else []


def train_iterator(trainer: Trainer) -> Any:
    """Return Lightning's iterator over all training loaders; its `iterators` are those of the loaders."""
    combined = trainer.fit_loop._combined_loader
    return combined._iterator if combined is not None else None


def val_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders that validation uses; they are known once a validation has begun."""
    combined = trainer.fit_loop.epoch_loop.val_loop._combined_loader
    return list(combined.flattened) if combined is not None else []


def fetches_ahead(fetcher: _DataFetcher | None) -> bool:
    return isinstance(fetcher, _PrefetchDataFetcher) and fetcher.length is None


def forget_restart(trainer: Trainer) -> None:
    """Keep Lightning from changing its counters for a restart: the loaded ones are already correct."""
    fit_loop = trainer.fit_loop
    fit_loop.epoch_loop.restarting = False
    fit_loop._restarting = False


def converts_batchnorm(trainer: Trainer) -> bool:
    """Return whether Lightning replaces BatchNorm by SyncBatchNorm where it trains on several processes."""
    return trainer._accelerator_connector._layer_sync is not None


def requeue_signal(trainer: Trainer) -> str | None:
    """Return the name of the signal at which Lightning requeues the SLURM job; None if it does not requeue."""
    environment = trainer._accelerator_connector.cluster_environment
    requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
    return environment.requeue_signal.name if requeues and environment.requeue_signal else None
