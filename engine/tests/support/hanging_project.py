"""A Lightning project that hangs: `python hanging_project.py RUN KIND`.

KIND is step, worker, collective, stopped (the main rank of two), lock (no other thread can run), or none.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import Dataset

import cairn

AT = 7
"""Number of the batch that hangs."""
BATCH_SIZE = 4


def sleep_for_ever() -> None:
    time.sleep(1e6)


class Points(Dataset):
    """Points; a worker hangs at one of them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 12 * BATCH_SIZE

    def __getitem__(self, index: int) -> Tensor:
        if self.kind == "worker" and index == AT * BATCH_SIZE:
            sleep_for_ever()
        return torch.full((3,), float(index))


class Net(LightningModule):
    """One layer; a step of one rank hangs, and with it the collective of the others."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, torch.nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        ranks = self.trainer.world_size
        hangs = self.kind in ("step", "collective") and self.global_rank == ranks - 1
        if hangs and batch_idx == AT // ranks:
            sleep_for_ever()
        if self.kind == "stopped" and self.global_rank == 0 and batch_idx == AT // ranks:
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.kind == "lock":
            time.sleep(0.4)  # a sentinel is started by the first look
            if batch_idx == AT:
                re.match("(a+)+$", 64 * "a" + "b")  # takes longer than anybody can wait, and keeps Python's lock
        return self.layer(batch).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-4)


def main(run: str, kind: str) -> None:
    seed_everything(0, verbose=False)
    writing = cairn.Writing("sync")  # so that the speed of the disk does not decide what is committed at the hang
    checkpoints = cairn.Checkpointer(f"{run}/checkpoints", every=2, keep_last=-1, watchdog="2s", writing=writing)
    ranks = 2 if kind in ("collective", "stopped") else 1
    trainer = Trainer(
        max_epochs=1,
        callbacks=[checkpoints],
        logger=False,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        default_root_dir=run,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    num_workers = 0 if kind in ("step", "lock", "none") else 1
    loader = cairn.DataLoader(Points(kind), batch_size=BATCH_SIZE, shuffle=False, num_workers=num_workers)
    trainer.fit(Net(kind), loader, ckpt_path=checkpoints.resume())


if __name__ == "__main__":
    main(*sys.argv[1:])
