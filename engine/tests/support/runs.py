"""Short runs with a Checkpointer, and what they leave in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tests.support.toy import BATCH_SIZE, PointData

from cairn import DataModule
from cairn.lightning.checkpointer import Checkpointer
from cairn.lightning.engine import Engine
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.lightning.policy import Policy
from cairn.policy.keep import Latest
from cairn.policy.when import Every
from cairn.store import names
from cairn.store.catalog import Catalog
from cairn.store.resume import ResumePoint
from cairn.types import Saved
from cairn.writing.options import Writing


class Scored(LightningModule):
    """Module with one weight that grows by 1 per optimizer step; each validation logs the next of the given scores."""

    def __init__(self, scores: Sequence[float] = ()) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scores = list(scores)
        self.num_batches = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.num_batches += 1
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/weight", self.weight, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            self.log("val/score", 0.0)
        elif self.scores:
            self.log("val/score", self.scores.pop(0))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/weight", self.weight)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@dataclass
class Run:
    """A run, before or after its fit."""

    directory: Path
    trainer: Trainer
    module: Any
    checkpoints: Checkpointer

    @property
    def engine(self) -> Engine:
        """The engine that the callback has created for the fit."""
        return self.checkpoints.engine

    @property
    def committed(self) -> list[Saved]:
        """The committed checkpoints, oldest first."""
        return Catalog(self.directory / "checkpoints").committed()

    @property
    def files(self) -> list[str]:
        """Names of the files in the directory of checkpoints, without manifests and the claim."""
        folder = self.directory / "checkpoints"
        claimed = {names.CLAIM, names.LOCK}
        found = [p.name for p in folder.iterdir() if p.suffix != ".json"] if folder.is_dir() else []
        return sorted(set(found) - claimed)


def policy(directory: Path, **settings: Any) -> Policy:
    """Return a policy that saves after every batch and keeps the newest two, changed by `settings`."""
    writing = {name: settings.pop(name) for name in [*settings] if name in Writing.__dataclass_fields__}
    plain = {"triggers": {"interval": Every(1)}, "rules": {"last": Latest(2)}}
    return Policy(directory / "checkpoints", **{**plain, **settings}, writing=Writing(**{"writer": "sync", **writing}))


def prepare(
    directory: Path,
    module: LightningModule,
    settings: Policy,
    *,
    plan: ResumePoint | None = None,
    stop: Callable[[float], str | None] = lambda save_s: None,
    callbacks: Sequence[Callback] = (),
    run_id: str = "toy",
    **options: Any,
) -> Run:
    """Prepare a run of one epoch with eight batches; `options` are further arguments of the trainer."""
    metadata = {"run": run_id, "config": {"seed": 7}, "seed": 7}
    checkpoints = Checkpointer(settings.directory, stop=stop, metadata=metadata)
    checkpoints.policy = settings
    checkpoints.go_on_from(plan or ResumePoint(None))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    loops = {"max_epochs": 1, "num_sanity_val_steps": 1, "log_every_n_steps": 2, "use_distributed_sampler": False}
    logger = CSVLogger(directory / "csv")
    own = {**quiet, **loops, "default_root_dir": directory, "logger": logger, **options}
    trainer = Trainer(**own, callbacks=[*callbacks, checkpoints])
    return Run(directory, trainer, module, checkpoints)


def fit(run: Run, data: DataModule | None = None) -> Run:
    """Train, starting from the resume point of the run."""
    path = run.checkpoints.resume_point.path
    data = data or PointData(batch_size=BATCH_SIZE, seed=3)
    run.trainer.fit(run.module, datamodule=data, ckpt_path=str(path) if path else None, weights_only=True)
    return run
