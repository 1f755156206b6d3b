"""A training of a second with everything that a resume could get wrong, which can be stopped after any batch."""

from __future__ import annotations

import io
import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import Dataset, IterableDataset
from torchmetrics import MeanMetric, MetricCollection, MinMaxMetric, MinMetric, RunningMean
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from cairn import DataModule
from cairn.lightning.checkpointer import Checkpointer
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.lightning.loops.calls import Place
from cairn.store.resume import ResumePoint
from cairn.writing import copying
from cairn.writing.options import Writing

NUM_SAMPLES, BATCH_SIZE = 23, 3  # eight batches, the last one smaller
BATCHES_PER_EPOCH, EPOCHS = 8, 3


class Points(Dataset):
    """Noisy points of two classes; each access draws the noise from all three generators."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(num_samples, 4, generator=generator)
        self.y = (self.x.sum(1) > 0).long()

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        noise = torch.randn(4) + float(np.random.randn()) + random.gauss(0, 1)
        return self.x[index] + 0.1 * noise, self.y[index], index


class PointData(DataModule):
    """Noisy points for training, and others without noise for validation."""

    def setup(self, stage: str | None = None) -> None:
        self.train_set = Points(NUM_SAMPLES)
        still = Points(10)
        self.val_set = [(still.x[i], still.y[i], i) for i in range(10)]  # type: ignore[assignment]


class Stream(IterableDataset):
    """Iterable of points in a fixed order, with noise from its own generator, and with a state."""

    def __init__(self) -> None:
        self.points = Points(NUM_SAMPLES)
        self.epoch, self.next, self.loaded = 0, 0, False
        self.generator = torch.Generator()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next, self.loaded = state["next"], True
        self.generator.set_state(state["generator"])

    def __iter__(self) -> Iterator[Any]:
        if not self.loaded:
            self.next = 0
            self.generator.manual_seed(self.epoch)
        self.loaded = False
        while self.next < NUM_SAMPLES:
            index, self.next = self.next, self.next + 1
            noise = torch.randn(4, generator=self.generator)
            yield self.points.x[index] + 0.1 * noise, self.points.y[index], index


class TwoValidations(PointData):
    """Two validation sets."""

    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), super().val_dataloader()]


class StreamData(PointData):
    """A training set without a length."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.train_set = Stream()


class Toy(LightningModule):
    """Module with BatchNorm, dropout, random numbers from each generator, and sums and metrics of each kind."""

    def __init__(self, scheduler: str = "step", manual: bool = False, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        self.train_acc, self.lowest = MulticlassAccuracy(2), MinMetric()
        self.scores = MetricCollection([MulticlassF1Score(2), MulticlassAccuracy(2)], prefix="train/")
        self.late = MeanMetric()  # logged at the end of an epoch only
        self.register_buffer("steps_seen", torch.zeros(()), persistent=False)
        self.automatic_optimization = not manual
        self._seen = io.StringIO()  # a log that training writes and never reads is not taken for its state

    @property
    def samples(self) -> list[list[int]]:
        """Epoch, batch and indices of each batch of this process."""
        return [json.loads(line) for line in self._seen.getvalue().splitlines()]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = batch
        print(json.dumps([self.current_epoch, batch_idx, *index.tolist()]), file=self._seen)
        self.steps_seen += 1
        logits = self.net(x + 0.01 * random.random() + 0.01 * np.random.rand())
        loss = nn.functional.cross_entropy(logits, y)
        self.train_acc(logits, y), self.scores(logits, y), self.late(loss)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/max", loss.detach() * self.steps_seen, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        self.log_dict(self.scores, on_step=False, on_epoch=True)
        if not self.automatic_optimization:
            self._step_by_hand(loss, batch_idx)
        return loss

    def _step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        """Two optimizers; the second one steps on the gradients of three batches."""
        first, second = self.optimizers()
        self.manual_backward(loss)
        first.step(), first.zero_grad()
        if batch_idx % 3 == 2:
            second.step(), second.zero_grad()

    def on_train_epoch_end(self) -> None:
        self.log("train/late", self.late)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y, _ = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.lowest(loss)
        self.log("val/loss", loss + 0.01 * torch.rand(()))
        self.log("val/step", loss, on_step=True, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("val/lowest", self.lowest.compute())

    def configure_optimizers(self) -> Any:
        lr = self.hparams["lr"]
        if not self.automatic_optimization:
            return [torch.optim.AdamW(self.net[0].parameters(), lr), torch.optim.SGD(self.net[4].parameters(), lr)]
        optimizer = torch.optim.AdamW(self.net.parameters(), lr)
        if self.hparams["scheduler"] == "none":
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": SCHEDULERS[self.hparams["scheduler"]](optimizer, self)}


class Awkward(Toy):
    """Module with state outside of state_dicts: modes set by hooks, buffers that grow, metrics with plain counts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.running, self.range = RunningMean(window=3), MinMaxMetric(MeanMetric())
        self.register_buffer("cache", torch.empty(0), persistent=False)
        self.register_buffer("late_cache", None, persistent=False)

    def on_train_epoch_start(self) -> None:
        self.net[0].requires_grad_(self.current_epoch != 1)
        self.net[1].train(self.current_epoch != 2)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 1 and batch_idx == 5 else None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.cache = torch.cat([self.cache, loss.detach().reshape(1)])
        self.late_cache = self.cache[-3:].clone()
        self.running(loss.detach()), self.range(loss.detach())
        self.log("train/running", self.running.compute() + self.range.compute()["max"] + self.cache.sum())
        self.log("train/peak", loss.detach(), on_step=False, on_epoch=True, reduce_fx=max)
        return loss + 0 * self.late_cache.sum()


class Resizes(Toy):
    """Module whose buffers get other forms in training: filled, grown, registered late, of another type, removed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.part = nn.Module()
        self.part.register_buffer("prototype", None)
        self.register_buffer("losses", torch.zeros(0))
        self.register_buffer("average", torch.tensor(0))
        for name, persistent in (("first", True), ("hint", False)):
            self.register_buffer(name, torch.ones(2), persistent=persistent)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.part.prototype is None:
            self.part.prototype = batch[0].mean(0)
        if not hasattr(self, "delayed"):
            self.register_buffer("delayed", batch[0].std())
            self.net.register_buffer("delayed", batch[0].std(), persistent=False)
        self.losses = torch.cat([self.losses, loss.detach().double()[None]])[-30:]
        self.average = 0.9 * self.average + 0.1 * loss.detach()
        if batch_idx == 2:
            self.first = self.hint = None
        elif batch_idx == 6:
            self.hint = torch.full((3,), 2.0)
        scale = self.losses.mean() + self.average + self.delayed + self.net.delayed + self.part.prototype.mean()
        scale = scale + sum(2.0 for buffer in (self.first, self.hint) if buffer is None)
        return loss * (1 + 0.01 * scale.float())


class TwoLayers(Toy):
    """Module in which each layer has a weight with rows; one of them is pruned from the start."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Identity(), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        prune.l1_unstructured(self.net[4], "weight", 0.2)


class Iterates(Toy):
    """Module that takes each batch out of the iterator itself, and whose loss depends on the batch index."""

    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx) * (1 + batch_idx)

    def log(self, name: str, value: Any, **options: Any) -> None:
        super().log(name, value, **{**options, "batch_size": options.get("batch_size") or BATCH_SIZE})


class Searched(Toy):
    """Module for finders, which keeps what a search does out of its list of samples and of its logs."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        end = self._seen.tell()
        loss = super().training_step(batch, batch_idx)
        if self._is_searching:
            self._seen.seek(end), self._seen.truncate()
        return loss

    def on_train_epoch_end(self) -> None:
        if not self._is_searching:
            super().on_train_epoch_end()

    @property
    def _is_searching(self) -> bool:
        return not any(isinstance(item, Checkpointer) for item in self.trainer.callbacks)


class FindsLater(LearningRateFinder):
    """Searches a learning rate at the start of the epochs 0 and 2, as Lightning's documentation shows."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not search yet."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch in (0, 2):
            self.lr_find(trainer, pl_module)


def _plateau(optimizer: Any, interval: str, monitor: str) -> dict[str, Any]:
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.7)
    return {"scheduler": scheduler, "interval": interval, "monitor": monitor, "frequency": 1}


SCHEDULERS: dict[str, Callable[[Any, Toy], Any]] = {
    "step": lambda optimizer, _: {
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9),
        "interval": "step",
    },
    "epoch": lambda optimizer, _: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.5),
    "plateau-epoch": lambda optimizer, _: _plateau(optimizer, "epoch", "val/loss"),
    "plateau-step": lambda optimizer, _: _plateau(optimizer, "step", "train/loss"),
    "onecycle": lambda optimizer, toy: {
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.1, total_steps=int(toy.trainer.estimated_stepping_batches)
        ),
        "interval": "step",
    },
}


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: what differs from the plain run."""

    trainer: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    module: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list
    interval: int | str = 1
    data_class: type[DataModule] = PointData
    module_class: type[LightningModule] = Toy
    monitor: str | None = "val/loss"
    saving: Mapping[str, Any] = field(default_factory=lambda: {"writer": "sync"})
    audit: str = "warn"
    num_boundaries: int = EPOCHS * BATCHES_PER_EPOCH
    """Number of boundaries of the run; -1: not known in advance."""
    pause_at: str | None = None


class CopyingCheckpointer(Checkpointer):
    """Checkpointer that copies the run directory at each boundary: what a `kill -9` would leave on disk there.

    If a save is committed in the background, the copy is made after the commit, shortly before the next boundary.
    """

    copies: Path | None = None
    _late = False

    def at_boundary(self, place: Place, ends: bool) -> None:
        self._copy_late()
        super().at_boundary(place, ends)
        self._late = True
        if self.policy.writing.writer == "sync":
            self._copy_late()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._copy_late()

    def _copy_late(self) -> None:
        if not self._late:
            return
        self._late = False
        if self.engine.saves.pipeline is not None:
            self.engine.saves.pipeline.wait()
        if self.copies is not None:
            number = len(list(self.copies.iterdir()))
            shutil.copytree(self.policy.directory.parent, self.copies / f"{number:03d}", symlinks=True)


@contextmanager
def copied_as_late_as_possible() -> Iterator[None]:
    """Delay each overlapping copy until right before the next optimizer step."""
    now, copy, finish = threading.Event(), copying._copy, copying.Copier.finish

    def late(pairs: Any, **options: Any) -> None:
        # After the last batch there is no step: then the other tensors need not wait, too.
        if threading.current_thread().name.startswith("checkpoint-copy") and not now.wait(0.1):
            now.set()
        copy(pairs, **options)

    def finish_now(self: copying.Copier) -> float:
        now.set()
        waited_s = finish(self)
        now.clear()
        return waited_s

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_copy", late)
        patch.setattr(copying.Copier, "finish", finish_now)
        yield


def checkpointer(run: Path, cell: Cell, run_id: str) -> CopyingCheckpointer:
    """Return a Checkpointer that saves each batch, the best and the end, and keeps the newest two and the best."""
    return CopyingCheckpointer(
        run / "checkpoints",
        cell.interval,
        monitor=cell.monitor,
        triggers={"stop": None},
        writing=Writing(**{"when_busy": "wait", **cell.saving}),
        audit=cell.audit,
        pause_at=cell.pause_at,
        metadata={"run": run_id},
    )


def train(
    run: Path,
    cell: Cell,
    *,
    copies: Path | None = None,
    start: ResumePoint | None = None,
    run_id: str = "toy",
    seed: int = 7,
) -> list[Any]:
    """Train in the directory `run`, and return the samples in the order of training.

    Args:
        run: Directory of the run, which is resumed if it has a checkpoint.
        cell: What to train.
        copies: Folder for a copy of the run directory at each boundary.
        start: Checkpoint to start from, in place of the newest one in the directory.
        run_id: Id of the run.
        seed: Seed of all generators.
    """
    seed_everything(seed, verbose=False)
    module = cell.module_class(**cell.module)
    data = cell.data_class(**{"batch_size": BATCH_SIZE, "seed": 3, **cell.data})
    checkpoints = checkpointer(run, cell, run_id)
    path: Any = checkpoints.resume()
    if start is not None:
        checkpoints.go_on_from(start)
        path = start.path
    checkpoints.copies = copies
    trainer = Trainer(**_settings(run, cell), callbacks=[*cell.callbacks(), checkpoints], logger=CSVLogger(run / "csv"))
    trainer.fit(module, datamodule=data, ckpt_path=path)
    return module.samples  # type: ignore[return-value, union-attr]


def _settings(run: Path, cell: Cell) -> dict[str, Any]:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    loops = {"max_epochs": EPOCHS, "log_every_n_steps": 2, "num_sanity_val_steps": 1, "use_distributed_sampler": False}
    return {**quiet, **loops, "default_root_dir": run, **cell.trainer}
