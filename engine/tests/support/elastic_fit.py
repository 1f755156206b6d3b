"""A short fit on any number of forked processes, which writes down which samples each of its steps has seen."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import socket
import warnings
from collections import defaultdict
from dataclasses import astuple, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset, IterableDataset
from torchmetrics import MeanMetric

import cairn
from cairn.types import ElasticLevel

NUM_SAMPLES, NUM_VAL, GLOBAL_BATCH, BATCH = 50, 13, 12, 4
FILES = [9, 9, 9, 8, 8, 7]
"""Points in the files of an iterable: the last one ends an epoch, also for processes that do not read it."""
WINDOWS = [12, 12, 12, 7, 7]
"""Samples in the global batches of an epoch."""


class Points(Dataset[Any]):
    """Points with their index; the target has noise that is drawn when a sample is read."""

    def __init__(self, number: int) -> None:
        self.points = torch.randn(number, 4, generator=torch.Generator().manual_seed(number))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Any:
        return self.points[index], self.points[index].sum(0, keepdim=True) + 0.1 * torch.randn(1), index


class Stream(IterableDataset[Any]):
    """The same points, from six files of `FILES` points."""

    def __init__(self, number: int) -> None:
        self.points, self.files, self.done, self.is_loaded = Points(number), list(range(6)), 0, False

    def shard(self, num_shards: int, index: int) -> Stream:
        part = copy.copy(self)
        part.files = self.files[index::num_shards]
        return part

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.is_loaded = state["done"], True

    def __iter__(self) -> Any:
        ends = list(accumulate(FILES))
        indices = [index for file in self.files for index in range(ends[file] - FILES[file], ends[file])]
        self.done, self.is_loaded = self.done if self.is_loaded else 0, False
        while self.done < len(indices):
            self.done += 1
            yield self.points[indices[self.done - 1]]


class Net(LightningModule):
    """Logs a mean of all processes and a metric, and has a schedule that counts every third step."""

    lr = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.metric = nn.Linear(4, 1), MeanMetric()
        self.seen: list[tuple[str, int, list[int]]] = []

    def loss(self, batch: Any, stage: str) -> Tensor:
        points, targets, indices = batch
        self.seen.append((stage, self.global_step, indices.tolist()))
        return (self.layer(points) - targets).square().mean()

    def training_step(self, batch: Any) -> Tensor:
        loss = self.loss(batch, "train")
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch[2]))
        self.metric.update(batch[2].float())
        self.log("index", self.metric, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch, "val"), sync_dist=True, batch_size=len(batch[2]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 3}}


def fit(
    folder: Path,
    processes: int = 1,
    *,
    size: int | None = GLOBAL_BATCH,
    batch_size: int = BATCH,
    ckpt_path: Path | None = None,
    num_workers: int | None = None,
    writing: dict[str, Any] | None = None,
    elastic: ElasticLevel = "samples",
    **options: Any,
) -> tuple[Trainer, Net]:
    """Fit in this process, one of `processes`, and go on from what is in the folder.

    Args:
        folder: Of the checkpoints.
        processes: Number of processes.
        size: Of a global batch.
        batch_size: Samples in a batch.
        num_workers: Of an iterable training set; None: it is map-style, and has none.
        writing: How checkpoints are written.
        elastic: Of the checkpointer.
        **options: Further arguments of the trainer.
    """
    seed_everything(0)
    saving = cairn.Checkpointer(
        folder / "checkpoints",
        every=2,
        keep_last=-1,
        monitor="val",
        watchdog="off",
        elastic=elastic,
        writing=cairn.Writing(**{"when_busy": "wait"} | (writing or {})),
    )
    common = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    common |= {"num_sanity_val_steps": 0, "max_epochs": 2, "val_check_interval": 2, "default_root_dir": folder}
    strategy = "auto" if processes == 1 else "ddp"
    callbacks = [*options.pop("callbacks", []), saving]
    trainer = Trainer(**common | {"devices": processes, "strategy": strategy, "callbacks": callbacks} | options)
    net = Net()
    train, val = Points(NUM_SAMPLES) if num_workers is None else Stream(NUM_SAMPLES), Points(NUM_VAL)
    how: dict[str, Any] = {"shuffle": True} if num_workers is None else {"num_workers": num_workers}

    class Data(LightningDataModule):
        """It makes new loaders each time."""

        def train_dataloader(self) -> Any:
            return cairn.DataLoader(train, batch_size, global_batch_size=size, **how)

        def val_dataloader(self) -> Any:
            return cairn.DataLoader(val, batch_size, global_batch_size=size)

    trainer.fit(net, Data(), ckpt_path=ckpt_path or saving.resume())
    return trainer, net


@dataclass
class Attempt:
    """What one start has seen, on all of its processes."""

    train: list[list[int]]
    """Sorted samples of each global batch."""
    val: list[list[int]]
    """Sorted samples of each validation."""
    metrics: dict[str, float]
    weights: list[float]
    lr: float
    checkpoints: list[tuple[str, list[int]]]
    """Names and positions (epoch, batch, batches, steps and samples so far), in the order of the run."""
    scores: list[float | None]


def start(folder: Path, processes: int, **options: Any) -> Attempt:
    """Fit on new processes.

    Raises:
        RuntimeError: One of them has failed; with its error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for path in folder.glob("*.json"):
        path.unlink()
    forks = multiprocessing.get_context("fork")
    started = [forks.Process(target=_rank, args=(folder, rank, processes, port, options)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    said = [folder / f"{rank}.json" for rank in range(processes)]
    found = [json.loads(path.read_text()) if path.exists() else {"error": "it was killed"} for path in said]
    if errors := [one["error"] for one in found if "error" in one]:
        raise RuntimeError(errors[0])
    return _attempt(found)


def _rank(folder: Path, rank: int, processes: int, port: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The checkpoint was saved by .* not be bit-identical")
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    try:
        said: dict[str, Any] = _facts(*fit(folder, processes, **options))
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    (folder / f"{rank}.json").write_text(json.dumps(said))
    os._exit(0)  # nothing of the tests ends here


def _facts(trainer: Trainer, net: Net) -> dict[str, Any]:
    saving = trainer.checkpoint_callback
    assert isinstance(saving, cairn.Checkpointer)
    return {
        "seen": net.seen,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "weights": [number for one in net.layer.parameters() for number in _whole(one).flatten().tolist()],
        "lr": trainer.optimizers[0].param_groups[0]["lr"],
        "checkpoints": [(saved.name, astuple(saved.position)) for saved in saving.saved],
        "scores": [saved.score for saved in saving.saved],
    }


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _attempt(found: list[dict[str, Any]]) -> Attempt:
    seen: dict[str, dict[int, list[int]]] = {"train": defaultdict(list), "val": defaultdict(list)}
    for one in found:
        for stage, step, indices in one["seen"]:
            seen[stage][step] += indices
    train, val = ([sorted(samples) for _, samples in sorted(seen[stage].items())] for stage in ("train", "val"))
    first = found[0]
    checkpoints = [(name, position) for name, position in first["checkpoints"]]
    return Attempt(train, val, first["metrics"], first["weights"], first["lr"], checkpoints, first["scores"])
