"""An existing Lightning project that was given Cairn: `python plain_project.py RUN WORKERS PROCESSES [SIGNAL BATCH]`.

It sends itself SIGNAL before it trains on batch number BATCH of this attempt.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import cairn


class Points(Dataset):
    """Points with noise, which is drawn at each access."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.x = torch.randn(44, 4, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + self.noise * torch.randn(4), (self.x[index].sum() > 0).long()


class Net(LightningModule):
    """A network with BatchNorm and dropout, which logs by step and by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def _loss(self, batch: Any, name: str) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log(name, loss, on_epoch=True, sync_dist=True)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "train/loss")

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "val/loss")

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "test/loss")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


class Interrupt(Callback):
    """Sends a signal to this process, or SIGKILL to all processes of the run."""

    def __init__(self, name: str, batch: int) -> None:
        self.number, self.batch, self.count = signal.Signals[name], batch, 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.count += 1
        if self.count == self.batch and int(os.environ.get("LOCAL_RANK", 0)) == 0:
            os.killpg(0, self.number) if self.number == signal.SIGKILL else os.kill(os.getpid(), self.number)


def main(run: str, num_workers: int, num_processes: int, *interrupt: str) -> None:
    """Train, from the newest checkpoint if there is one, and test the best one."""
    seed_everything(0, verbose=False)
    writing = cairn.Writing(when_busy="wait")  # so that every attempt saves at the same batches
    checkpoints = cairn.Checkpointer(f"{run}/checkpoints", every=3, monitor="val/loss", writing=writing)
    callbacks: list[Callback] = [checkpoints]
    if interrupt:
        callbacks.append(Interrupt(interrupt[0], int(interrupt[1])))
    trainer = Trainer(
        max_epochs=3,
        callbacks=callbacks,
        logger=cairn.CSVLogger(f"{run}/csv"),
        accelerator="cpu",
        devices=num_processes,
        strategy="ddp" if num_processes > 1 else "auto",
        log_every_n_steps=2,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Net(),
        cairn.DataLoader(Points(0.1), batch_size=4, shuffle=True, num_workers=num_workers),
        DataLoader(Points(0.0), batch_size=4),
        ckpt_path=checkpoints.resume(),
    )
    trainer.test(Net(), DataLoader(Points(0.0), batch_size=4), ckpt_path="best", verbose=False)
    print(f"best {checkpoints.best.name if checkpoints.best else None}, {len(checkpoints.saved)} kept")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
