"""Boundaries in Lightning's loops, at which a run can be saved, and the restart from one.

At a boundary, a batch is complete: with its hooks, its validation and its schedulers. The last batch of an epoch has
its boundary after the hooks at the end of the epoch: what they compute is saved, and a resume does not repeat them.

    fit loop     loaders; iterators over them
                 for each epoch:
                     <-- a state from "epoch" is restored here
                     hooks at the start of the epoch (see restart.py for a resume from "batch")
    epoch loop       new iterators, except in epoch 0
                     <-- a state from "batch" is restored here
                     for each batch:
                         training step, optimizer step, schedulers, on_train_batch_end
                         validation, ReduceLROnPlateau
                         --> boundary "batch", if it completes a window, and more batches follow
    fit loop         hooks and schedulers at the end of the epoch
                     --> boundary "epoch"

A run that `max_steps` ends inside an epoch has its last boundary at that batch. Lightning then runs the hooks at the
end of the epoch all the same, and a resume with more steps must not see their effect.

Hooks set what the data reads, an epoch of a dataset for example, and a worker gets a copy of it when it starts. So a
resume creates the iterators of an epoch where an undisturbed run does: those of epoch 0 before the hooks, the others
after them.

Depending on where a run stopped, Lightning's own restart repeats or drops a scheduler step, an iteration of a loop or
the end of an epoch. This one starts from one of two points and changes nothing else.

    boundary.py         what the other rooms call
    fit_loop.py         epochs; epoch_loop.py: their batches; evaluation_loop.py: those of a validation
    counters.py         counters and flags, saved and restored; parts.py: what the loops hold
    connector.py        what is logged after a batch
    dealing.py          global batches in the loops; moved.py: other processes; whole_means.py: means over them

Only these modules, finders.py, ../restart.py, ../bits/logged.py, ../saved/pruning.py, ../saved/sums.py and
../logs/event_files.py use private names of Lightning. They are written for Lightning 2.6; `install` refuses other
versions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import lightning
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _PrefetchDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from cairn.data.loader import DataLoader
from cairn.errors import ConfigError
from cairn.lightning import versions
from cairn.lightning.loops import connector, evaluation_loop, parts
from cairn.lightning.loops.calls import Engine, Place, Stopped, VirtualRanks
from cairn.lightning.loops.counters import LoopStates, counters, set_counters, set_sync_flags, sync_flags
from cairn.lightning.loops.epoch_loop import BoundaryEpochLoop
from cairn.lightning.loops.fit_loop import BoundaryFitLoop
from cairn.lightning.loops.moved import SavedBy
from cairn.lightning.loops.parts import (
    global_batch_size,
    per_window,
    requeue_signal,
    steps,
    train_loaders,
    val_loaders,
)
from cairn.types import Position

__all__ = [
    "BoundaryEpochLoop",
    "BoundaryFitLoop",
    "Engine",
    "Place",
    "Stopped",
    "callback_states",
    "counters",
    "dump",
    "encoded_once",
    "expect",
    "global_batch_size",
    "install",
    "per_window",
    "position",
    "prepare_dump",
    "requeue_signal",
    "set_counters",
    "set_sync_flags",
    "set_virtual_state",
    "steps",
    "sync_flags",
    "train_loaders",
    "val_loaders",
    "virtual_state",
]


def install(trainer: Trainer, engine: Engine, ranks: VirtualRanks | None = None) -> None:
    """Give the trainer's loops boundaries.

    The loops keep their identity and get another class, so data sources, counters and limits set on them are kept.

    Args:
        trainer: The trainer, before its fit.
        engine: Called at each boundary.
        ranks: Virtual ranks of the trainer; None: it has none.

    Raises:
        ConfigError: This is an unsupported version of Lightning, or the trainer has custom loops.
    """
    versions.check(lightning.__version__)
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for loop, ours, theirs in (
        (fit_loop, BoundaryFitLoop, _FitLoop),
        (epoch_loop, BoundaryEpochLoop, _TrainingEpochLoop),
    ):
        if type(loop) not in (ours, theirs):
            raise ConfigError(
                f"The trainer uses {type(loop).__name__} in place of Lightning's loop, and a Checkpointer cannot find "
                f"the boundaries in it: use Lightning's loops."
            )
        loop.__class__ = ours
    evaluation_loop.install(trainer, ranks)
    epoch_loop.virtual_ranks = ranks
    connector.install(trainer, ranks)
    fit_loop.pending = epoch_loop.pending = fit_loop.arrives = False  # a fit before this one may have failed
    fit_loop.saved_by, fit_loop.is_saved_by_us, fit_loop.has_loaded = None, False, False
    fit_loop.forget_global_batches()
    fit_loop.engine = epoch_loop.engine = engine
    trainer._checkpoint_connector._get_loops_state_dict = LoopStates(trainer)  # type: ignore[method-assign]


def virtual_state(trainer: Trainer) -> dict[str, Any]:
    """Return what the virtual ranks of this process have collected, if there are any."""
    ranks = getattr(trainer.fit_loop.epoch_loop, "virtual_ranks", None)
    return {} if ranks is None else {"virtual": ranks.state()}


def set_virtual_state(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restore what `virtual_state` has returned, of any number of processes."""
    ranks = getattr(trainer.fit_loop.epoch_loop, "virtual_ranks", None)
    if ranks is not None and "virtual" in state:
        ranks.load_state(state["virtual"])


def expect(
    trainer: Trainer,
    place: Place,
    epoch: int = 0,
    counts: Mapping[str, Any] | None = None,
    saved_by: SavedBy | None = None,
) -> None:
    """Prepare the loops for a restart from a boundary.

    Args:
        trainer: The trainer.
        place: Which of the two kinds of boundary it is.
        epoch: The epoch that the boundary belongs to.
        counts: What `counters` has returned there.
        saved_by: The processes that have saved the checkpoint.
    """
    fit_loop = trainer.fit_loop
    assert isinstance(fit_loop, BoundaryFitLoop)
    fit_loop.saved_by, fit_loop.is_saved_by_us = saved_by, True
    fit_loop.pending = place == "epoch"
    fit_loop._epoch_loop.pending = place == "batch"
    fit_loop.is_beyond_first_epoch = place == "epoch" or epoch > 0
    fit_loop.arrives, fit_loop.request = True, (counts or {}).get("request")


def position(trainer: Trainer, place: Place, samples: int) -> Position:
    """Return the position of the trainer, which is at a boundary.

    Args:
        trainer: The trainer.
        place: Which boundary it is.
        samples: Number of samples of the run so far.
    """
    fit_loop, batches = trainer.fit_loop, trainer.fit_loop.epoch_loop.batch_progress
    per = per_window(trainer)
    epoch, batch = fit_loop.epoch_progress.current.completed, batches.current.completed // per
    if place == "epoch":
        repeats = getattr(fit_loop.epoch_loop, "repeats", False)  # the position before has a checkpoint already
        epoch, batch = (epoch, 0) if repeats else (epoch - 1, batch)
    return Position(epoch, batch, batches.total.completed // per, steps(trainer).completed, samples)


def prepare_dump() -> None:
    """Import what Lightning imports in its first `dump_checkpoint`: a first save would take 30 ms more."""
    if importlib.util.find_spec("omegaconf") is not None:
        importlib.import_module("omegaconf")


def dump(trainer: Trainer, place: Place) -> dict[str, Any]:
    """Return everything that Lightning would save, as references to live tensors."""
    fetcher, batches = trainer.fit_loop._data_fetcher, trainer.fit_loop.epoch_loop.batch_progress.current
    # Lightning fetches one batch ahead where the data has no length: the position of the loader is then too far.
    lag = max(0, fetcher.fetched - batches.ready) if isinstance(fetcher, _PrefetchDataFetcher) else 0
    iterators = getattr(parts.train_iterator(trainer), "iterators", [])
    for loader, iterator in zip_longest(train_loaders(trainer), iterators):
        if isinstance(loader, DataLoader):
            loader.at_boundary(lag, place == "epoch", iterator)
    return trainer._checkpoint_connector.dump_checkpoint(False)  # not only the weights


def encoded_once(trainer: Trainer, states: dict[str, Any]) -> dict[str, Any]:
    """Return the states of the loops, in which those that do not run in a fit are encoded only once."""
    own: Any = trainer._checkpoint_connector._get_loops_state_dict
    return dict(own.with_constants(states))


def callback_states(trainer: Trainer) -> dict[str, Any]:
    """Return the state of each callback on this rank. Lightning saves those of rank 0 only."""
    return {callback.state_key: state for callback in trainer.callbacks if (state := callback.state_dict())}
