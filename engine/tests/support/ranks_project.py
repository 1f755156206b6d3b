"""A run of two processes whose own state differs: `python ranks_project.py RUN [STRATEGY [kill|fail|leave BATCH]]`.

Rank 0 kills all processes before batch BATCH of this attempt, or a hook of rank 1 fails from there on, or fails while
rank 0 waits for it in a collective call of the same hook.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from torch.utils.data import Sampler, TensorDataset

import cairn
from cairn.lightning import agreement

SIZE = 16


class HardFirst(Sampler[int]):
    """Begins an epoch with the samples whose last loss was high on this rank."""

    def __init__(self) -> None:
        self.losses = [0.0] * SIZE

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(range(SIZE), key=lambda index: -self.losses[index]))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])


class Data(LightningDataModule):
    """Shifts each batch by the mean of those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.sampler = 0.0, HardFirst()

    def train_dataloader(self) -> cairn.DataLoader:
        points = torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(1))
        return cairn.DataLoader(TensorDataset(torch.arange(SIZE), points), 2, sampler=self.sampler)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.shift = 0.5 * self.shift + float(batch[1].mean())
        return batch[0], batch[1] + self.shift

    def state_dict(self) -> dict[str, Any]:
        return {"shift": self.shift}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shift = state["shift"]


class Net(LightningModule):
    """Divides each loss by the average of this rank's losses, and counts on rank 1 what no checkpoint holds."""

    def __init__(self, action: str, batch: int) -> None:
        super().__init__()
        self.layer, self.average, self.counted = torch.nn.Linear(2, 1), 1.0, 0
        self.codebook = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
        self.action, self.batch = action, batch
        self._num_batches = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self._num_batches += 1
        if self.action == "kill" and self._num_batches == self.batch and self.global_rank == 0:
            os.killpg(0, signal.SIGKILL)
        loss = self.layer(batch[1]).square().mean()
        self.average = 0.9 * self.average + 0.1 * loss.item()
        self.counted += self.global_rank
        self.codebook += self.global_rank
        self.trainer.optimizers[0].param_groups[0]["num_hard"] = 10 + self.global_rank
        for index in batch[0].tolist():
            self.trainer.datamodule.sampler.losses[index] = loss.item() + self.global_rank * index
        return loss / self.average

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.action in ("fail", "leave") and self._num_batches >= self.batch:
            if self.global_rank == 1:
                raise OSError("this rank has no disk")
            if self.action == "leave":
                torch.distributed.barrier()
        checkpoint["average"] = self.average
        if self.global_rank == 0:
            checkpoint["of rank 0"] = 1

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.average = checkpoint["average"]
        assert checkpoint["of rank 0"] == 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.05)


def main(run: str, strategy: str = "ddp", action: str = "", batch: str = "0") -> None:
    """Train two epochs, from the newest checkpoint if there is one, and write what each rank ends with."""
    seed_everything(0, verbose=False)
    if action == "leave":
        agreement._OTHERS = timedelta(seconds=0.1)  # they will not come
    checkpoints = cairn.Checkpointer(f"{run}/checkpoints", every=1, keep_last=-1, writing=cairn.Writing("sync"))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=2, devices=2, strategy=strategy, callbacks=[checkpoints], **quiet)  # type: ignore[arg-type]
    net, data = Ending(action, int(batch)), Data()
    net.folder = Path(run)
    main = os.getppid()
    try:
        trainer.fit(net, datamodule=data, ckpt_path=checkpoints.resume())
    except OSError:
        while action == "fail" and os.getppid() == main:  # Lightning kills a main process that ends after this one
            time.sleep(0.01)
        raise


class Ending(Net):
    """Writes what this rank ends with: `fit` returns in another process if the strategy spawns or forks."""

    folder: Path

    def on_train_end(self) -> None:
        data = self.trainer.datamodule
        weights = [parameter.tolist() for parameter in self.layer.parameters()]
        end = {"average": self.average, "shift": data.shift, "losses": data.sampler.losses, "weights": weights}
        (self.folder / f"rank_{self.global_rank}.json").write_text(json.dumps(end))


if __name__ == "__main__":
    main(*sys.argv[1:])
