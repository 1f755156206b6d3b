"""A tiny training over any loaders, stopped after every batch and resumed: what differs from the undisturbed run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor

import cairn

Made = tuple[Any, ...]
"""Loaders; then, if there are any, options of the Trainer, and callbacks."""


class Adder(LightningModule):
    """Remembers every batch, and learns from its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx, _plain(batch)))
        noise = 1 + 0.1 * torch.rand((), dtype=torch.float64)
        return (self.weight - _sum(batch) * noise) ** 2 * 1e-4

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def train(make: Callable[[], Made], run: Path, seed: int, resume: Path | None = None) -> Adder:
    """Train two epochs in `run`, with a checkpoint after each batch."""
    seed_everything(seed, verbose=False)
    made = make()
    loaders, options, callbacks = (*made, *({}, [])[len(made) - 1 :])
    checkpoints = cairn.Checkpointer(
        run, every=1, keep_last=-1, writing=cairn.Writing(writer="sync"), triggers={"stop": None}
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(**{"max_epochs": 2, "devices": 1, **quiet, **options}, callbacks=[*callbacks, checkpoints])
    module = Adder()
    trainer.fit(module, loaders, ckpt_path=resume)
    return module


def inexact_stops(make: Callable[[], Made], folder: Path, each: int = 1) -> list[str]:
    """Resume after every batch, and return the names of the checkpoints whose resumed runs differ.

    Args:
        make: Makes loaders, options and callbacks for one run.
        folder: Where the runs are.
        each: Resume after every `each`-th batch only.
    """
    whole = train(make, folder / "whole", seed=1)
    unequal = []
    files = sorted((folder / "whole").glob("epoch_*.ckpt"))
    assert len(files) > 3
    for file in files[each - 1 :: each]:
        manifest = file.with_suffix(".json")
        done = json.loads(manifest.read_text())["position"]["total_batches"]
        (run := folder / file.stem).mkdir()
        for one in (file, manifest):
            shutil.copy(one, run / one.name)
        resumed = train(make, run, seed=99, resume=run / file.name)
        if whole.seen[done:] != resumed.seen or not torch.equal(whole.weight, resumed.weight):
            unequal.append(file.name)
    return unequal


def _plain(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _plain(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [_plain(value) for value in batch]
    return batch.tolist() if isinstance(batch, Tensor) else batch


def _sum(batch: Any) -> Any:
    if isinstance(batch, dict):
        return sum(map(_sum, batch.values()))
    if isinstance(batch, (list, tuple)):
        return sum(map(_sum, batch))
    return 0.0 if batch is None else torch.as_tensor(batch).double().sum()
