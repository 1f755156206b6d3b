"""A short fit with `elastic="bits"` on any number of forked processes: its weights and its metrics, bit for bit."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor
from tests.support.paths import ROOT
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

import cairn
from cairn.lightning.saved import placed
from cairn.store.catalog import Catalog
from cairn.writing.load import load

NUM_SAMPLES, NUM_VAL, GLOBAL_BATCH, BATCH = 89, 40, 24, 2
"""Twelve virtual ranks, so that 1, 2, 3 and 4 processes share them; the last two global batches are incomplete."""


class Text(Dataset[Any]):
    """Random tokens, one of which is drawn when a sample is read."""

    def __init__(self, number: int) -> None:
        self.tokens = torch.randint(0, 16, (number, 9), generator=torch.Generator().manual_seed(number))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Any:
        tokens = self.tokens[index].clone()
        tokens[random.randrange(9)] = torch.randint(0, 16, ())
        return tokens


class Branch(nn.Module):
    """A residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the layer makes of the input."""
        return x + torch.tanh(self.layer(x))


class Net(LightningModule):
    """The template's GPT with dropout, and much that depends on the number of processes elsewhere.

    A layer is not always used, branches are used twice in a step, BatchNorm has statistics, random numbers come from
    generators of several kinds, hooks of the step log and count, and a validation reads the number of its batch.
    """

    def __init__(self, foreach: bool | None = None, rare: bool = True) -> None:
        super().__init__()
        self.foreach, self.is_rare = foreach, rare
        sys.path.insert(0, str(ROOT / "src"))
        from project.models.gpt import GPT

        self.gpt = GPT(vocab_size=16, seq_len=8, num_layers=2, num_heads=2, embed_dim=16, dropout=0.1)
        self.norm, self.rare, self.unused = nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(2, 2)
        self.mean, self.accuracy = MeanMetric(), MulticlassAccuracy(16)
        self.val_accuracy, self.steps = MulticlassAccuracy(16), SumMetric()
        self.branches, self.noise = nn.ModuleList([Branch(), Branch()]), torch.Generator()

    def loss(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        out = self.gpt(batch[:, :-1])
        for _ in range(2):
            for branch in self.branches:
                out = branch(out)
        out = out.transpose(1, 2)
        out = out + 0.1 * self.norm(out)
        if not self.is_rare or int(batch.sum()) % 3 == 0:
            out = out + 0.1 * self.rare(out.transpose(1, 2)).transpose(1, 2)
        return F.cross_entropy(out, batch[:, 1:]), out

    def training_step(self, batch: Tensor) -> Tensor:
        loss, out = self.loss(batch)
        noise = np.random.rand() + random.random() + float(torch.rand((), generator=self.noise))
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True)
        if int(batch.sum()) % 5 == 0:
            self.log("rare", loss, on_step=True, on_epoch=True)
        self.mean.update(loss.detach() * noise)
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        self.accuracy(out.detach(), batch[:, 1:])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return loss * (1 + 0.01 * noise)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        loss, out = self.loss(batch)
        self.val_accuracy.update(out, batch[:, 1:])
        self.log("val/loss", loss * (1 + 0.01 * random.random() + 0.001 * batch_idx))
        self.log("val/accuracy", self.val_accuracy)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.log("began", torch.rand(()), on_step=True, on_epoch=True, reduce_fx="sum")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.steps.update(1.0)
        self.log("stepped", self.steps, on_step=False, on_epoch=True)
        self.log("gradients", float(self.gpt.norm.weight.grad is not None), reduce_fx="sum", on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.log("drawn", torch.rand(()))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch)[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01, foreach=self.foreach)


_OPTIONS: dict[str, Any] = {"elastic": "bits", "strategy": "ddp", "sharding": {}, "foreach": None, "rare": True}
_OPTIONS |= {"size": GLOBAL_BATCH, "val_size": GLOBAL_BATCH, "batch_size": BATCH}


def fit(folder: Path, processes: int = 1, *, net: LightningModule | None = None, **options: Any) -> tuple[Trainer, Any]:
    """Fit in this process, one of `processes`, and go on from what is in the folder.

    Args:
        folder: Of the run.
        processes: Number of processes.
        net: The model; None: `Net`.
        **options: Further arguments of the trainer, and those of `_OPTIONS`. The strategy is `ddp` or `fsdp`, with the
            arguments `sharding`.
    """
    seed_everything(3)
    own = {name: options.pop(name, default) for name, default in _OPTIONS.items()}
    saving = cairn.Checkpointer(
        folder / "checkpoints", every=1, monitor="val/loss", elastic=own["elastic"], watchdog="off"
    )
    common: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    common |= {"num_sanity_val_steps": 1, "max_epochs": 2, "val_check_interval": 2, "default_root_dir": folder}
    common |= {"gradient_clip_val": 0.5, "log_every_n_steps": 1, "logger": cairn.CSVLogger(folder / "csv")}
    strategy: Any = "auto" if processes == 1 else "ddp_find_unused_parameters_true"
    if own["strategy"] == "fsdp":
        strategy = cairn.FSDP2Strategy(**own["sharding"])
    callbacks = [LearningRateMonitor("step"), saving, *options.pop("callbacks", ())]
    trainer = Trainer(**common | {"devices": processes, "strategy": strategy, "callbacks": callbacks} | options)
    net = net or Net(own["foreach"], own["rare"])
    size, val_size = own["size"], own["val_size"]
    train = cairn.DataLoader(Text(NUM_SAMPLES), own["batch_size"], shuffle=True, global_batch_size=size)
    val = cairn.DataLoader(Text(NUM_VAL), 2, global_batch_size=val_size)
    test = cairn.DataLoader(Text(NUM_VAL), 2, global_batch_size=val_size or GLOBAL_BATCH)
    trainer.fit(net, train, val, ckpt_path=saving.resume())
    if not options.get("max_steps"):
        trainer.test(net, test, verbose=False)
    return trainer, net


@dataclass
class Ended:
    """What a run has come to."""

    weights: list[str]
    """A digest of each of the weights and buffers, on every process."""
    metrics: str
    """What is in metrics.csv."""
    optimizer: str
    """A digest of its states in the newest checkpoint."""
    error: str = ""

    @property
    def digest(self) -> str:
        """A digest of all three."""
        return _digest_of(repr((self.weights, self.metrics, self.optimizer)).encode())


def start(folder: Path, processes: int, **options: Any) -> Ended:
    """Fit on new processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks = multiprocessing.get_context("fork")
    started = [forks.Process(target=_rank, args=(folder, rank, processes, port, options)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    error = next((one["error"] for one in found if one["error"]), "")
    if not error and options.get("elastic") != "samples":  # with samples, buffers of a process are its own
        assert all(one["weights"] == found[0]["weights"] for one in found), "all processes have the same weights"
    files = list((folder / "csv").rglob("metrics.csv"))
    states = "" if error else _digest_of(repr(_plain(_newest(folder)["optimizer_states"])).encode())
    return Ended(found[0]["weights"], files[0].read_text() if files else "", states, error)


def _newest(folder: Path) -> Any:
    directory = folder / "checkpoints"
    return load(directory / Catalog(directory).committed()[-1].name)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else _digest(value)


def _rank(folder: Path, rank: int, processes: int, port: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    said: dict[str, Any] = {"weights": [], "error": ""}
    try:
        _, net = fit(folder, processes, **options)
        state = placed.weights(net, lambda value: value.full_tensor())
        said["weights"] = [f"{name} {_digest(value)}" for name, value in state.items()]
    except BaseException as error:
        said["error"] = f"{type(error).__name__}: {error}"
    (folder / f"{rank}.json").write_text(json.dumps(said))
    os._exit(0)  # nothing of the tests ends here


def _digest(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return _digest_of(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())


def _digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=4).hexdigest()
