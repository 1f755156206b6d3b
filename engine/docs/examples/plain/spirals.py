"""Two spirals, and a network that separates them: ordinary Lightning and torch, written without Cairn in mind."""

import torch
from lightning import LightningModule
from torch import nn
from torch.utils.data import TensorDataset


def spirals(num_points: int, seed: int) -> TensorDataset:
    """Return points (num_points, 2) on two noisy spirals, and the number of the spiral of each."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(num_points) % 2
    angle = 6 * torch.rand(num_points, generator=generator) + 1
    turned = angle + torch.pi * label
    points = angle[:, None] * torch.stack([turned.cos(), turned.sin()], 1)
    return TensorDataset(points + 0.2 * torch.randn(num_points, 2, generator=generator), label)


train_set, val_set = spirals(1024, seed=0), spirals(256, seed=1)


class Net(LightningModule):
    """A classifier with dropout, a schedule, and metrics by step and by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )

    def training_step(self, batch, batch_idx):
        return self._loss(batch, "train")

    def validation_step(self, batch, batch_idx):
        self._loss(batch, "val")

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)}

    def _loss(self, batch, stage):
        points, label = batch
        logits = self.net(points)
        loss = nn.functional.cross_entropy(logits, label)
        self.log(f"{stage}/loss", loss, on_epoch=True, prog_bar=True)
        self.log(f"{stage}/acc", (logits.argmax(1) == label).float().mean(), on_epoch=True)
        return loss
