"""Optimizers and schedulers that the user's code exchanges in training: a resume builds those of the start again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.errors import ConfigError
from cairn.lightning.settings import classes

_warn = rank_zero_only(logging.getLogger(__name__).warning)


class Exchanged:
    """Notes what a training begins with, and what has another class at a save.

    An optimizer in the place of one of the same class gets everything from its saved state. It only must not have left
    behind a scheduler, which a resume would attach to it.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._first: dict[str, list[str]] | None = None
        self._left_behind: list[str] = []
        self._warned = ""

    def see(self) -> None:
        """Read what there is when all state is loaded, and no hook that a resume repeats too late has run."""
        self._first, self._left_behind = classes.names(self.trainer), _left_behind(self.trainer)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint says about it; warn once if a resume from it will be refused."""
        now = classes.names(self.trainer)
        text = "" if self._first is None else self._changes(self._first, now)
        if text and text != self._warned:
            self._warned = text
            _warn(
                f"Training has exchanged {text}. A resume builds what configure_optimizers returns, and is refused. "
                f"Make all optimizers and schedulers there; with manual optimization, training_step can choose one."
            )
        return {"classes": now, "exchanged": text} if text else {"classes": now}

    def _changes(self, first: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> str:
        pairs = [(first[kind], now[kind]) for kind in now if first[kind] != now[kind]]
        if not pairs:
            return "" if self._left_behind else ", ".join(_left_behind(self.trainer))
        before, after = (", ".join(name for pair in pairs for name in pair[side]) for side in (0, 1))
        return f"{before or 'nothing'} for {after or 'nothing'}"


def check(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint if the training had exchanged what this process has built.

    Args:
        trainer: The trainer.
        settings: What the checkpoint says about the settings.

    Raises:
        ConfigError: It had.
    """
    text = settings.get("exchanged", "")
    if text and (settings["classes"] != classes.names(trainer) or _DRIVES in text):
        raise ConfigError(
            f"Training had exchanged {text} before this checkpoint was saved, and a resume builds what "
            f"configure_optimizers returns: let it return what training had at the checkpoint, or start a new run from "
            f"the weights alone."
        )


_DRIVES = "for one that does not follow"


def _left_behind(trainer: Trainer) -> list[str]:
    """Return the schedulers whose optimizer is none of the trainer's, in words."""
    found = []
    for config in trainer.lr_scheduler_configs:
        driven = getattr(config.scheduler, "optimizer", None)
        if driven is not None and not any(driven is optimizer for optimizer in trainer.optimizers):
            found.append(f"{type(driven).__name__} {_DRIVES} {type(config.scheduler).__name__}")
    return found
