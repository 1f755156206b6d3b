"""Limits of a training that the user's code changes: in a hook, or before a second fit of the same trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.errors import ConfigError
from cairn.lightning.settings import schedules

_warn = rank_zero_only(logging.getLogger(__name__).warning)


class Raised:
    """What a process begins with, and what its code makes of it.

    A resumed process begins with the same values, and would end where the first fit ended. So it continues with what
    they had become, unless the user has changed them.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._first: dict[str, Any] = {}

    def see(self) -> None:
        """Read the limits, before the first fit of the process."""
        self._first = self._first or self._limits()

    def load(self, ours: Mapping[str, Any], resumes: bool) -> None:
        """Take over the limits that the run had when a checkpoint was saved.

        Args:
            ours: Value of the key `cairn` in the checkpoint.
            resumes: Whether the run is the same.

        Raises:
            ConfigError: The checkpoint lies beyond the end of this training.
        """
        raised: Mapping[str, Any] = ours.get("settings", {}).get("raised", {}) if resumes else {}
        if raised and raised["first"] == self._limits():
            self.trainer.fit_loop.max_epochs = raised["now"]["max_epochs"]
            self.trainer.fit_loop.epoch_loop.max_steps = raised["now"]["max_steps"]
            changes = [f"{name}={value}" for name, value in raised["now"].items() if value != raised["first"][name]]
            _warn(
                "Training had changed its own limits when the checkpoint was saved, and the resumed run keeps %s.",
                ", ".join(changes),
            )
        epochs, limit = schedules.completed_epochs(ours), self.trainer.max_epochs
        if limit is not None and 0 <= limit < epochs:
            raise ConfigError(
                f"max_epochs={limit} ends the training before the checkpoint, which has completed {epochs} epochs: set "
                f"it to {epochs} or more. A script that raises it for a later fit needs the higher value from the "
                f"start to resume.",
                parameter="max_epochs",
            )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint says about the limits; empty if they are as at the start of the process."""
        now = self._limits()
        return {} if now == self._first else {"raised": {"first": self._first, "now": now}}

    def _limits(self) -> dict[str, Any]:
        return {"max_epochs": self.trainer.max_epochs, "max_steps": self.trainer.max_steps}
