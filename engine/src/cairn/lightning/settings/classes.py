"""Decides whether an optimizer or a scheduler can continue from the state of one of another class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer

from cairn.errors import ConfigError


def names(trainer: Trainer) -> dict[str, list[str]]:
    """Return the names of the classes of the optimizers and schedulers."""
    schedulers = [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs]
    return {"optimizers": [type(optimizer).__name__ for optimizer in trainer.optimizers], "schedulers": schedulers}


def check(trainer: Trainer, settings: Mapping[str, Any]) -> list[str]:
    """Check that optimizers and schedulers can load the state of those of a checkpoint, before they do.

    Args:
        trainer: The trainer.
        settings: What the checkpoint says about the settings.

    Returns:
        A text for each scheduler of another class than before, which continues at the same step.

    Raises:
        ConfigError: One of them cannot.
    """
    then = settings.get("classes", {})
    for before, optimizer in zip(then.get("optimizers", []), trainer.optimizers, strict=False):
        kind, old = type(optimizer), getattr(torch.optim, before, None)
        related = old is not None and (issubclass(kind, old) or issubclass(old, kind))  # Adam and AdamW
        if before != kind.__name__ and not related:
            raise _other_class(before, kind.__name__)
    changed = []
    for number, (before, config) in enumerate(
        zip(then.get("schedulers", []), trainer.lr_scheduler_configs, strict=False)
    ):
        now, had_functions = type(config.scheduler).__name__, f"{number} function 0" in settings["schedulers"]
        if "lr_lambdas" in vars(config.scheduler) and not had_functions:
            raise _other_class(before, now)
        changed += [f"{now} in place of {before}"] if before != now else []
    return changed


def _other_class(before: str, now: str) -> ConfigError:
    return ConfigError(
        f"The checkpoint holds the state of {before}, and this run has {now}, which cannot continue from it: choose "
        f"{before} again, or start a new run from the weights alone."
    )
