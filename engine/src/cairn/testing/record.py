"""Train a run, and record after each batch everything that a resume could get wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from cairn.lightning import boundary, state
from cairn.lightning.checkpointer import Checkpointer
from cairn.lightning.csv_logger import CSVLogger
from cairn.writing.options import Writing

_DEEPEST = 4
"""Maximum nesting of the lists and dicts in an attribute that is recorded."""
_PLAIN = (bool, int, float, str, type(None))


def record(make: Any, directory: Path, seed: int, epochs: int | None, batches: int | None) -> None:
    """Train what `make` builds in `directory`, from the checkpoint in it if there is one, and write `report.json`.

    Args:
        make: See `assert_exact`.
        directory: Directory of the run.
        seed: Seed of the global random number generators before `make` is called. Ordinary processes start at random.
        epochs: Limit for the epochs; None: the trainer's own.
        batches: Limit for the batches of an epoch; None: the trainer's own.
    """
    seed_everything(seed, verbose=False)
    del os.environ["PL_GLOBAL_SEED"]  # a project that sets no seed has none
    made = make()
    if not isinstance(made, tuple) or len(made) != 3 or not isinstance(made[0], Trainer):
        raise ValueError(f"`make` must return (trainer, model, data), not {made!r:.200}.")
    trainer, model, data = made
    if trainer.fast_dev_run:
        raise ValueError("With fast_dev_run nothing is saved, so that there is nothing to resume: leave it out.")
    if trainer.world_size > 1:
        raise ValueError("assert_exact tests one process: build the Trainer with devices=1.")
    _limit(trainer, epochs, batches)
    checkpoints = Recorder(directory / "checkpoints")
    # With other checkpoint callbacks, loggers and progress bars a test would write into the project, or upload.
    kept = [item for item in trainer.callbacks if not isinstance(item, Checkpoint)]
    trainer.callbacks = [*kept, checkpoints]
    trainer.loggers = [CSVLogger(directory / "csv")]
    arguments = data if isinstance(data, tuple) else (data,)
    if isinstance(data, LightningDataModule):
        trainer.fit(model, datamodule=data, ckpt_path=checkpoints.resume())
    else:
        trainer.fit(model, *arguments, ckpt_path=checkpoints.resume())
    metrics = directory / "csv" / "metrics.csv"
    report = {
        "batches": checkpoints.batches,
        "rows": list(csv.DictReader(metrics.read_text().splitlines())) if metrics.is_file() else [],
        "kept": [[item.name, list(item.reasons), item.score] for item in checkpoints.saved[-1:]],
    }
    (directory / "report.json").write_text(json.dumps(report))


def _limit(trainer: Trainer, epochs: int | None, batches: int | None) -> None:
    if batches is not None:
        for name in ("limit_train_batches", "limit_val_batches"):
            now = getattr(trainer, name)
            if now != 0:
                setattr(trainer, name, min(now, batches) if isinstance(now, int) else batches)
        if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch is not None:
            trainer.val_check_interval = min(trainer.val_check_interval, batches)
    if epochs is not None:
        loop = trainer.fit_loop
        loop.max_epochs = epochs if loop.max_epochs in (None, -1) else min(loop.max_epochs, epochs)


class Recorder(Checkpointer):
    """Saves after every batch, keeps everything, and records the facts of each boundary."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 1, keep_last=-1, triggers={"stop": None}, writing=Writing("sync", when_busy="wait"))
        self.batches: dict[str, dict[str, dict[str, Any]]] = {}
        self._sample: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record a digest of the batch before training can change it."""
        self._sample = {"batch": _digest(batch)}

    def at_boundary(self, place: boundary.Place, ends: bool) -> None:
        """Record the facts of this boundary, then save."""
        trainer = self.engine.trainer
        number = boundary.position(trainer, place, 0).total_batches
        self.batches[str(number)] = {"sample": self._sample, **_facts(trainer)}
        super().at_boundary(place, ends)


def _facts(trainer: Trainer) -> dict[str, dict[str, Any]]:
    model = trainer.lightning_module
    metrics = {**trainer.callback_metrics, **trainer.logged_metrics}
    optimizers = {
        f"{number}.{key}": value
        for number, optimizer in enumerate(trainer.optimizers)
        for key, value in _flat(optimizer.state_dict())
    }
    schedulers = {
        f"{number}.{key}": value
        for number, config in enumerate(trainer.lr_scheduler_configs)
        for key, value in _flat(config.scheduler.state_dict())
    }
    return {
        "attribute": dict(_attributes(trainer, model)),
        "tensor": {name: _digest(value) for name, value in _tensors(model)},
        "optimizer": optimizers,
        "scheduler": schedulers,
        "metric": {name: float(value) if value.numel() == 1 else _digest(value) for name, value in metrics.items()},
        "generator": {name: _digest(value) for name, value in state.rng_state().items()},
    }


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _attributes(trainer: Trainer, model: LightningModule) -> Iterator[tuple[str, Any]]:
    """Yield the plain public attributes of the user's own objects; classes of libraries are skipped."""
    owners: list[tuple[str, Any]] = [(type(model).__name__, model)]
    owners += [(f"{type(model).__name__}.{name}", part) for name, part in model.named_modules() if name]
    owners += [(type(item).__name__, item) for item in trainer.callbacks]
    owners += [(type(item).__name__, item) for item in [trainer.datamodule] if item is not None]
    for loader in boundary.train_loaders(trainer):
        dataset = getattr(loader, "dataset", None)
        dataset = getattr(dataset, "dataset", dataset)
        if dataset is not None:
            owners.append((type(dataset).__name__, dataset))
    for owner, item in owners:
        if type(item).__module__.partition(".")[0] in ("lightning", "torch", "torchmetrics", "cairn"):
            continue
        for name, value in vars(item).items():
            if not name.startswith("_") and _is_plain(value):
                yield f"{owner}.{name}", value if isinstance(value, _PLAIN) else _digest(value)


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (*_PLAIN, Tensor, np.ndarray, np.generic)):
        return not isinstance(value, nn.Parameter)
    if depth == _DEEPEST or not isinstance(value, (list, tuple, dict, set)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return all(_is_plain(item, depth + 1) for item in items)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _flat(item, f"{prefix}[{index}]")
    else:
        yield prefix, value if isinstance(value, _PLAIN) else _digest(value)


def _digest(value: Any) -> str:
    found = hashlib.blake2b(digest_size=8)
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        found.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            found.update(f"{key!r}:".encode())
            _feed(found, item)
    elif isinstance(value, (list, tuple)):
        found.update(f"{len(value)};".encode())
        for item in value:
            _feed(found, item)
    elif isinstance(value, (set, frozenset)):
        found.update(repr(sorted(map(repr, value))).encode())
    else:
        found.update(repr(value).encode() if isinstance(value, _PLAIN) else type(value).__name__.encode())
