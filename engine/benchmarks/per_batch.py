"""What a batch and the save of a small state cost, next to plain Lightning and ModelCheckpoint, in one run.

The model is trivial, so that what is measured is the framework around it. The contenders alternate in one process, in
the reverse order every other round. Shown is the lower quartile of all batches: what else runs on the machine only
ever adds.

    python -m benchmarks.per_batch [--batches N] [--rounds R]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils import data
from torch.utils.data import TensorDataset

import cairn
from cairn.account.progress import ProgressFile

_BATCH_SIZE, _NEVER, _SAVE_EVERY = 4, 10**9, 50
_NO_TRIGGERS = dict.fromkeys(("interval", "best", "end", "stop"))


class Net(LightningModule):
    """A linear model with a state of about 100 kB, which notes when each of its training steps begins."""

    def __init__(self, began: list[float]) -> None:
        super().__init__()
        self.began = began
        self.layer, self.more = nn.Linear(8, 1), nn.Linear(128, 64)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.began.append(time.perf_counter())
        return ((self.layer(batch[0]) - batch[1]) ** 2).mean() + 0.0 * self.more.weight[0, 0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), foreach=True)


@dataclass
class Contender:
    """One way to train."""

    name: str
    callbacks: Callable[[Path], list[Callback]]
    ours: bool = True
    """Trains with `cairn.DataLoader`."""
    save_every: int = 0
    batch_s: list[float] = field(default_factory=list)
    pause_s: list[float] = field(default_factory=list)
    """Of the saves of each round: the middle."""


def _with_progress(checkpoints: cairn.Checkpointer, directory: Path) -> list[Callback]:
    checkpoints.watchers.append(ProgressFile(directory / "progress.json"))
    return [checkpoints]


def contenders() -> list[Contender]:
    """Return all contenders; the first one is the baseline."""
    return [
        Contender("plain Lightning", lambda _: [], ours=False),
        Contender("an empty callback", lambda _: [Callback()], ours=False),
        Contender("ModelCheckpoint, not due", lambda path: [_model_checkpoint(path, _NEVER)], ours=False),
        Contender("plain Lightning, cairn.DataLoader", lambda _: []),
        Contender("Checkpointer, none", lambda path: [cairn.Checkpointer(path, None, triggers=_NO_TRIGGERS)]),
        Contender("Checkpointer, not due", lambda path: [cairn.Checkpointer(path, _NEVER)]),
        Contender("Checkpointer, auto, progress", lambda path: _with_progress(cairn.Checkpointer(path, "auto"), path)),
        Contender("ModelCheckpoint, saves", lambda path: [_model_checkpoint(path, _SAVE_EVERY)], False, _SAVE_EVERY),
        Contender("Checkpointer, saves", lambda path: [cairn.Checkpointer(path, _SAVE_EVERY)], True, _SAVE_EVERY),
    ]


def _model_checkpoint(path: Path, every: int) -> ModelCheckpoint:
    return ModelCheckpoint(path, every_n_train_steps=every, save_top_k=1, monitor=None)


def train(contender: Contender, samples: TensorDataset, num_batches: int) -> None:
    """Train once, and note what a batch and a save have taken."""
    began: list[float] = []
    loader = cairn.DataLoader if contender.ours else data.DataLoader
    directory = Path(tempfile.mkdtemp())
    callbacks = contender.callbacks(directory)
    trainer = Trainer(
        default_root_dir=directory,
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=num_batches,
        callbacks=callbacks,
        enable_checkpointing=any(type(item) is not Callback for item in callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(0)
    trainer.fit(Net(began), loader(samples, _BATCH_SIZE, shuffle=True))
    shutil.rmtree(directory, ignore_errors=True)
    taken = [after - before for before, after in itertools.pairwise(began)]
    every, first = contender.save_every, num_batches // 5
    usual = [taken[batch] for batch in range(first, len(taken)) if not every or (batch + 1) % every]
    contender.batch_s.append(statistics.quantiles(usual, n=4)[0])
    if every:
        saves = [taken[batch] for batch in range(first, len(taken)) if not (batch + 1) % every]
        contender.pause_s.append(statistics.median(saves) - statistics.median(usual))


def main(argv: Sequence[str]) -> None:
    """Measure, and print a line for each contender."""
    parser = argparse.ArgumentParser("python -m benchmarks.per_batch", description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=2000, help="batches of a training (default: 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="trainings of each contender (default: 5)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "cairn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    seeded = torch.Generator().manual_seed(0)
    num_samples = options.batches * _BATCH_SIZE
    samples = TensorDataset(*(torch.randn(num_samples, width, generator=seeded) for width in (8, 1)))
    found = contenders()
    train(contenders()[0], samples, 200)  # warms up
    for number in range(options.rounds):
        for contender in found[:: -1 if number % 2 else 1]:
            train(contender, samples, options.batches)
    base = found[0].batch_s
    for contender in found:
        added = statistics.median(own - plain for own, plain in zip(contender.batch_s, base, strict=True))
        pause = f", pause of a save {1e3 * min(contender.pause_s):.2f} ms" if contender.pause_s else ""
        print(f"{contender.name:36}{1e6 * min(contender.batch_s):7.0f} us a batch, {1e6 * added:+5.0f} us{pause}")


if __name__ == "__main__":
    main(sys.argv[1:])
