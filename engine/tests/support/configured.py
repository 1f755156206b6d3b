"""Runs of a small model of which everything can be configured, and new runs and resumes from their checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import TensorDataset
from torchmetrics.classification import BinaryAccuracy

import cairn

BATCHES = 5
"""Batches of an epoch."""


class Net(LightningModule):
    """Module that notes the learning rate and the epoch of each batch; its validation loss falls three times."""

    def __init__(
        self,
        lr: float = 0.1,
        schedule: Callable[[torch.optim.Optimizer, Net], Any] | None = None,
        interval: str = "step",
        optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        freeze: bool = False,
        threshold: float = 0.5,
        frequency: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2).requires_grad_(not freeze), nn.Linear(2, 2)
        self.make = functools.partial(optimizer, lr=lr, **options)
        self.schedule, self.interval, self.frequency = schedule, interval, frequency
        self.accuracy = BinaryAccuracy(threshold=threshold)
        self.rates: list[float] = []
        self.epochs: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.epochs.append(self.current_epoch)
        out = self.b(self.a(batch[0]))
        self.accuracy(out.sigmoid().mean(1), (batch[0].sum(1) > 0).long())
        self.log("train/acc", self.accuracy, on_epoch=True, on_step=False)
        return out.square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(max(0.0, 2.0 - self.current_epoch)), batch_size=1)

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        if self.schedule is None:
            return optimizer
        config = {"scheduler": self.schedule(optimizer, self), "interval": self.interval, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": {**config, "frequency": self.frequency}}

    @property
    def total_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)


@dataclass
class Fitted:
    """A run after its fit."""

    net: Net
    trainer: Trainer
    checkpoints: cairn.Checkpointer

    @property
    def group(self) -> dict[str, Any]:
        """The first parameter group."""
        return self.trainer.optimizers[0].param_groups[0]

    def path(self, number: int = -1) -> str:
        """Path of a checkpoint."""
        return str(self.checkpoints.policy.directory / self.checkpoints.saved[number].name)


def fit(
    directory: Path,
    net: Net,
    ckpt_path: str | None = None,
    callbacks: Sequence[Callback] = (),
    epochs: int = 2,
    data: LightningDataModule | None = None,
    **options: Any,
) -> Fitted:
    """Train in a directory, which holds a checkpoint per two batches afterwards; `resume` as a path continues it."""
    writing = cairn.Writing("sync")
    checkpoints = cairn.Checkpointer(directory, every=2, keep_last=-1, writing=writing)
    path = checkpoints.resume() if ckpt_path == "resume" else ckpt_path
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    limits = {"max_epochs": epochs, "num_sanity_val_steps": 0, "default_root_dir": directory}
    trainer = Trainer(callbacks=[*callbacks, checkpoints], **{**quiet, **limits, **options})
    x = torch.randn(2 * BATCHES, 2, generator=torch.Generator().manual_seed(0))
    train, val = cairn.DataLoader(TensorDataset(x), 2, shuffle=True, seed=0), cairn.DataLoader(TensorDataset(x[:4]), 2)
    if data is None:
        trainer.fit(net, train, val, ckpt_path=path)
    else:
        data.train_dataloader, data.val_dataloader = lambda: train, lambda: val  # type: ignore[method-assign]
        trainer.fit(net, data, ckpt_path=path)
    return Fitted(net, trainer, checkpoints)


def cosine(steps: int) -> Callable[..., Any]:
    """Return a factory of a cosine schedule."""
    return lambda optimizer, _: lr_scheduler.CosineAnnealingLR(optimizer, steps)


def one_cycle(steps: int | None = None) -> Callable[..., Any]:
    """Return a factory of a one-cycle schedule; without `steps`, it is as long as the training."""
    return lambda optimizer, net: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps or net.total_steps)
