"""Train a short run, and record after each batch everything that a resume could get wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from cairn.lightning.checkpointer import Checkpointer
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.testing import facts, proof_run
from cairn.testing.digest import digest
from cairn.testing.fresh import import_function
from cairn.testing.limits import shortened
from cairn.testing.proof_run import ProofRun
from cairn.types import Moment
from cairn.writing.options import Writing


class Recording(Callback):
    """Records the facts of each boundary, and kills the process after the planned batch.

    It is a callback for the samples, and a watcher of the engine for the boundaries.
    """

    on_all_ranks = True

    def __init__(self, given: ProofRun) -> None:
        self._run = given
        self._trainer: Trainer | None = None
        self._samples: dict[str, Any] = {}
        self._validated = self._armed = False
        self._report: dict[str, Any] = {"batches": {}, "starts": {}, "positions": {}, "roles": {}, "loaders": []}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the trainer, which the engine does not pass to its watchers."""
        self._trainer = trainer

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the batch before training can change it, and what is in no checkpoint."""
        self._samples.setdefault("training batch", []).append(digest(batch))
        started = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        self._report["starts"][str(started + 1)] = facts.at_start(trainer)
        self._report["loaders"] = facts.loaders(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record the samples of a validation inside of the training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._samples.setdefault(f"validation batch of loader {dataloader_idx}", []).append(digest(batch))
            self._validated = True

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """Exit inside the batch after the saved one: the weights have changed since then, and rows were logged."""
        self._exit_if_due()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exit here if the run was to be killed after its last batch. Other ranks write what they have recorded."""
        self._exit_if_due()
        if trainer.global_rank > 0:
            self._write()
        trainer.strategy.barrier()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is known about a run that fails."""
        self._write()

    def at_boundary(self, moment: Moment) -> None:
        """Record the facts of this boundary."""
        assert self._trainer is not None
        here = moment.position
        number = here.total_batches
        found, self._report["roles"], self._report["sampled"] = facts.at_boundary(self._trainer)
        self._report["hidden"] = facts.hidden(self._trainer, found["attribute"])
        sample = {name: digest(values) for name, values in self._samples.items()}
        self._report["batches"][str(number)] = {"sample": sample, **found}
        last = bool(self._trainer.is_last_batch)
        self._report["positions"][str(number)] = [here.epoch, here.batch, last, self._validated]
        self._samples, self._validated = {}, False
        self._armed = self._armed or number == self._run.kill_after

    def fit_ended(self) -> None:
        """Do nothing: rows may still be logged."""

    def write(self) -> None:
        """Write the report: the facts, and what the run has left on the disk."""
        directory = self._run.directory
        metrics = directory / "csv" / "metrics.csv"
        self._report["rows"] = list(csv.DictReader(metrics.read_text().splitlines())) if metrics.is_file() else []
        checkpoints = Checkpointer(directory / "checkpoints").saved
        self._report["kept"] = [
            [item.name, [reason for reason in item.reasons if reason != proof_run.TRIGGER], item.score]
            for item in checkpoints
        ]
        self._report["device"] = str(self._trainer.strategy.root_device) if self._trainer else ""
        self._report["notes"] = self._run.notes
        self._write()

    def _write(self) -> None:
        rank = self._trainer.global_rank if self._trainer else 0
        self._run.report_of(rank).write_text(json.dumps(self._report))

    def _exit_if_due(self) -> None:
        # The other ranks are killed with rank 0, by the process that waits for it.
        if self._armed and self._trainer is not None and self._trainer.is_global_zero:
            self._write()
            os.kill(os.getpid(), signal.SIGKILL)


def load(module: str, file: str, name: str) -> Any:
    """Import the function that builds a run; called once, before the runs are forked."""
    return import_function(module, file, name)


def run(make: Any, seed: int, given: ProofRun) -> None:
    """Train what `make` builds in the directory of the run, from the checkpoint in it if there is one.

    Args:
        make: See `assert_exact`.
        seed: Seed of the global random number generators before `make` is called. Ordinary processes start at random.
        given: The run that this process becomes.
    """
    proof_run.give(given)
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
    _limit(trainer, given)
    recording = Recording(given)
    checkpoints = Checkpointer(
        given.directory / "checkpoints",
        1,
        keep_last=-1,
        triggers={"stop": None},
        writing=Writing("sync", when_busy="wait"),
    )
    checkpoints.watchers.append(recording)
    # With other checkpoint callbacks, loggers and progress bars a test would write into the project, or upload.
    kept = [item for item in trainer.callbacks if not isinstance(item, Checkpoint)]
    trainer.callbacks = [*kept, recording, checkpoints]
    trainer.loggers = [CSVLogger(given.directory / "csv")]
    arguments = data if isinstance(data, tuple) else (data,)
    if isinstance(data, LightningDataModule):
        trainer.fit(model, datamodule=data, ckpt_path=checkpoints.resume())
    else:
        trainer.fit(model, *arguments, ckpt_path=checkpoints.resume())
    recording.write()


def _limit(trainer: Trainer, given: ProofRun) -> None:
    loop = trainer.fit_loop
    names = ("limit_train_batches", "limit_val_batches", "val_check_interval", "check_val_every_n_epoch")
    values = {**{name: getattr(trainer, name) for name in names}, "max_epochs": loop.max_epochs}
    values["min_epochs"] = loop.min_epochs
    for name, value in shortened(values, given.epochs, given.batches, given.val_batches or given.batches).items():
        setattr(loop if name in ("max_epochs", "min_epochs") else trainer, name, value)
