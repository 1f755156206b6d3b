"""A training of several ranks on the CPU that alternates between blocks with a save and blocks without."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import TensorDataset

import cairn
from benchmarks.ranks.ways import Make

_WIDTH, _BATCH = 1024, 8
BYTES_PER_LAYER = 3 * 4 * _WIDTH * _WIDTH
"""Parameters and the two moments of Adam."""


@dataclass(frozen=True)
class Blocks:
    """Which batches a training has: a first save that does not count, then pairs of blocks.

          warm-up                 pair 1                        pair 2
        | 2 | save, length | save, length | length, quiet | save, length | ...

    A block begins at the end of the batch after which it saves.
    """

    length: int
    """Batches of a block."""
    pairs: int

    @property
    def first(self) -> int:
        """Number of batches before the first pair."""
        return 2 + self.length

    @property
    def num_batches(self) -> int:
        """Number of batches in all."""
        return self.first + 2 * self.pairs * self.length + 1

    @property
    def saves(self) -> list[int]:
        """Numbers of batches after which the saves of the pairs come."""
        return [self.first + 2 * number * self.length for number in range(self.pairs)]

    def due(self, batch: int) -> bool:
        """Whether a save is due after this number of batches."""
        return batch == 2 or batch in self.saves


class Net(LightningModule):
    """Layers of 12 MB each, with their moments."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(num_layers)))

    def configure_model(self) -> None:
        """Shard the model where Lightning leaves that to it."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, cairn.FSDP2Strategy):
            mesh = strategy.device_mesh["data_parallel"]
            for part in (*self.layers, self.layers):
                fully_shard(part, mesh=mesh)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.layers(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-4)


class Clock(Callback):
    """Notes when each batch begins and ends; the first of the callbacks, so that a save comes after an end."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.starts.append(time.perf_counter())

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())


def train(
    folder: Path, make: Make, ranks: int, num_layers: int, blocks: Blocks, strategy: Any = "ddp"
) -> list[dict[str, list[float]]]:
    """Train once in new processes.

    Args:
        folder: New directory, removed at the end.
        make: Returns the callbacks that save, given the directory and when a save is due.
        ranks: Number of processes.
        num_layers: Size of the model.
        blocks: Its batches.
        strategy: Strategy of the trainer.

    Returns:
        For each rank, when its batches started and ended, in seconds.

    Raises:
        RuntimeError: A rank has failed.
    """
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        together(ranks, lambda rank: _rank(folder, make, rank, ranks, port, num_layers, blocks, strategy))
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def together(ranks: int, work: Callable[[int], None]) -> None:
    """Do something in several forked processes at once.

    Args:
        ranks: Number of processes.
        work: Is called with the number of each.

    Raises:
        RuntimeError: One of them has failed.
    """
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"ranks have ended with {[process.exitcode for process in processes]}; see above")


def _rank(
    folder: Path, make: Make, rank: int, ranks: int, port: int, num_layers: int, blocks: Blocks, strategy: Any
) -> None:
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric", "cairn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    seed_everything(0, verbose=False)
    clock, saving = Clock(), make(folder / "checkpoints", blocks.due)
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_steps=blocks.num_batches,
        callbacks=[clock, *saving],
        enable_checkpointing=any(isinstance(item, Checkpoint) for item in saving),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    data = TensorDataset(torch.randn(_BATCH * ranks * blocks.num_batches, _WIDTH))
    trainer.fit(Net(num_layers), cairn.DataLoader(data, batch_size=_BATCH))
    (folder / f"{rank}.json").write_text(json.dumps({"starts": clock.starts, "ends": clock.ends}))
    os._exit(0)  # nothing of the parent ends here
