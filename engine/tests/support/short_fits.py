"""Short fits in this process that are interrupted and resumed: what most tests of a small model need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

import cairn

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
"""Options of a trainer that prints nothing."""


class Interrupted(Exception):
    """Stands for a kill."""


class Interrupt(Callback):
    """Ends a fit before the batch after an optimizer step.

    Args:
        step: Number of steps; None: the fit is not interrupted.
    """

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
        if trainer.global_step == self.step:
            raise Interrupted


def fit(
    path: Path,
    model: LightningModule,
    data: Any,
    *,
    stop: int | None = None,
    ckpt_path: Path | None = None,
    callbacks: Sequence[Callback] = (),
    saving: dict[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """Train with a save after each batch, from the newest checkpoint in a directory if there is one.

    Args:
        path: Directory of the checkpoints.
        model: The model.
        data: A loader or a datamodule.
        stop: Number of steps after which the fit is interrupted.
        ckpt_path: Where to begin instead.
        callbacks: Those before the Checkpointer.
        saving: Options of the Checkpointer.
        **options: Options of the trainer.
    """
    checkpoints = cairn.Checkpointer(path, 1, writing=cairn.Writing(writer="sync"), **saving or {})
    trainer = Trainer(callbacks=[*callbacks, Interrupt(stop), checkpoints], **QUIET | {"max_epochs": 2} | options)
    trainer.fit(model, data, ckpt_path=ckpt_path or checkpoints.resume())
    return trainer
