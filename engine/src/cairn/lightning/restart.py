"""What a resume repeats before its first batch, and what it puts back afterwards.

Hooks such as `on_train_start` and `on_train_epoch_start` set attributes that training reads: a time, a temperature
that depends on the epoch, a mask. A process that resumes inside an epoch has to run them, too, although the checkpoint
already contains what they did to weights, optimizers, counters, logs and random numbers:

    Lightning     loads the checkpoint, runs on_fit_start, on_train_start
    run_again     the generators as they were at the start of the epoch; loggers that drop everything
                  on_train_epoch_start of the callbacks and of the module
    reload        weights, optimizers, schedulers, states of callbacks, from the file again
    restore       what Lightning does not restore (see capture.py), the generators last
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.migration.utils import _pl_migrate_checkpoint

from cairn.lightning import state
from cairn.lightning.audit import Audit

log = logging.getLogger(__name__)

_EPOCH_START = "on_train_epoch_start"
_HOOKS = ("on_fit_start", "on_train_start", _EPOCH_START)
"""Hooks that run between the loading of a checkpoint and the first batch."""


class Restart:
    """What one process knows about the start of the epoch that it trains.

    Args:
        trainer: The trainer.
        audit: Compares plain attributes.
    """

    def __init__(self, trainer: Trainer, audit: Audit) -> None:
        self.trainer, self.audit = trainer, audit
        self.rng: Mapping[str, Any] | None = None
        """State of the generators before the hooks at the start of the epoch ran; None: it is unknown."""

    def load(self, ours: Mapping[str, Any]) -> None:
        """Take the state of this rank from a checkpoint."""
        self.rng = ours["ranks"][self.trainer.global_rank].get("epoch_rng")

    def epoch_begins(self) -> None:
        """The hooks at the start of an epoch are about to run."""
        self.rng = state.rng_state()
        self.audit.epoch_begins()

    def epoch_begun(self) -> None:
        """The hooks at the start of an epoch have run."""
        self.audit.epoch_begun()

    def epoch_begins_again(self) -> None:
        """A resume continues inside an epoch: run the hooks at its start again."""
        run_again(self.trainer, self.rng)

    def reload(self) -> None:
        """Load what Lightning has loaded again, before `capture.restore`; see the function `reload`."""
        reload(self.trainer)

    def restored(self, ours: Mapping[str, Any]) -> None:
        """Everything is restored: compare the attributes with those of the process that has saved.

        Raises:
            ConfigError: Some differ, and `audit` is `error`.
        """
        self.audit.resumed(ours["place"], ours.get("attributes", {}))


def run_again(trainer: Trainer, rng: Mapping[str, Any] | None) -> None:
    """Run the hooks at the start of the epoch, as a process would have that began with it.

    A hook that raises is logged: what it sets may be missing, but the run was able to continue without it.

    Args:
        trainer: The trainer, inside an epoch, before its first batch.
        rng: State of the generators before these hooks ran in the original process; None: it is unknown.
    """
    module = trainer.lightning_module
    if rng is not None:
        state.set_rng_state(rng)
    with _dropped_logs(trainer):
        for callback in trainer.callbacks:
            with _logged_errors(callback):
                module._current_fx_name = _EPOCH_START
                callback.on_train_epoch_start(trainer, module)
        with _logged_errors(module):
            call._call_lightning_module_hook(trainer, _EPOCH_START)
    module._current_fx_name = None


def reload(trainer: Trainer) -> None:
    """Load the checkpoint of this fit again, if hooks may have changed what Lightning has loaded from it.

    Args:
        trainer: The trainer, before its first batch; its `ckpt_path` is the checkpoint.
    """
    if not any(_has_hooks(owner) for owner in (trainer.lightning_module, *trainer.callbacks)):
        return
    path, connector = trainer.ckpt_path, trainer._checkpoint_connector
    assert path is not None
    contents = trainer.strategy.load_checkpoint(path, weights_only=True)
    connector._loaded_checkpoint = _pl_migrate_checkpoint(contents, path)
    try:
        connector.restore_model()
        _reload_callbacks(trainer, connector._loaded_checkpoint)
        connector.restore_precision_plugin_state()
        connector.restore_optimizers_and_schedulers()
    finally:
        connector._loaded_checkpoint = {}


def _reload_callbacks(trainer: Trainer, contents: dict[str, Any]) -> None:
    states: Mapping[str, Any] = contents.get("callbacks") or {}
    for callback in trainer.callbacks:
        if isinstance(callback, Checkpoint):  # ours, and others whose state training does not change
            continue
        callback.on_load_checkpoint(trainer, trainer.lightning_module, contents)
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])


def _has_hooks(owner: LightningModule | Callback) -> bool:
    """Whether hooks of this object run before the first batch, apart from those that only display or save."""
    if isinstance(owner, ProgressBar | Checkpoint):
        return False
    base = LightningModule if isinstance(owner, LightningModule) else Callback
    # A LambdaCallback holds its hooks as attributes.
    return any(getattr(type(owner), name) is not getattr(base, name) or name in vars(owner) for name in _HOOKS)


@contextmanager
def _dropped_logs(trainer: Trainer) -> Iterator[None]:
    """Replace the loggers by ones that accept everything and write nothing."""
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


@contextmanager
def _logged_errors(owner: object) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning(
            "%s.%s failed when this resume repeated it (%s: %s). The run continues without what it sets.",
            type(owner).__name__,
            _EPOCH_START,
            type(error).__name__,
            error,
        )
