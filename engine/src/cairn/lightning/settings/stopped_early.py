"""Decides whether a run that is continued keeps the decision of its checkpoint to stop early."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.lightning.saved import unsaved
from cairn.lightning.settings import schedules
from cairn.lightning.settings.parts import Part

_warn = rank_zero_only(logging.getLogger(__name__).warning)


def forget_in_new_run(trainer: Trainer, checkpoint: Mapping[str, Any], run: str) -> None:
    """Remove the decisions of callbacks from the checkpoint of another run, before they load them.

    Args:
        trainer: The trainer.
        checkpoint: The checkpoint, which is changed.
        run: Id of the run that begins.
    """
    if checkpoint[unsaved.KEY]["run"] != run:
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping | Timer):
                checkpoint.get("callbacks", {}).pop(callback.state_key, None)


def may_train_on(trainer: Trainer, ours: Mapping[str, Any], callbacks: Sequence[Part]) -> bool:
    """Return whether the user has changed something so that a run that had stopped early trains on.

    Args:
        trainer: The trainer.
        ours: Value of the key `cairn` in the checkpoint.
        callbacks: The callbacks.
    """
    if not schedules.limits_then(ours):  # an earlier version saved it, and there is nothing to compare with
        return not any(isinstance(callback, EarlyStopping | Timer) for callback in trainer.callbacks)
    then = ours.get("settings", {}).get("callbacks", {})
    deciding = [part for part in callbacks if issubclass(part.kind, EarlyStopping | Timer)]
    if any(part.arguments & {*part.changed(then.get(part.key, {}))} for part in deciding):
        return True
    if schedules.is_longer(trainer, ours):
        return True
    lost = {*then} - {part.key for part in callbacks}
    # Of a callback that is gone, only the key is known, which begins with the name of its class.
    return any(key.startswith(("EarlyStopping", "Timer")) for key in lost) or (bool(lost) and not deciding)


def start_again(trainer: Trainer) -> None:
    """Let a run that had stopped early train on, as its user asks for."""
    counts = []
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
            callback.wait_count = 0  # otherwise the next validation would stop the run again
            counts.append(f"EarlyStopping waits for {callback.patience} more checks of {callback.monitor}")
    _warn(f"The run had stopped early, and now trains on{': ' if counts else ''}{', '.join(counts)}.")


def log_if_over(trainer: Trainer, ours: Mapping[str, Any], stopped: bool) -> None:
    """Log it if nothing remains to be trained.

    Args:
        trainer: The trainer.
        ours: Value of the key `cairn` in the checkpoint.
        stopped: Whether its decision to stop holds.
    """
    if why := schedules.what_ended(trainer, ours):
        _warn(f"Nothing remains to be trained: {why} to train on.")
    elif stopped:
        _warn(
            "Nothing remains to be trained: the run stopped early. To train on, raise max_epochs, give EarlyStopping "
            "more patience, or remove it."
        )
