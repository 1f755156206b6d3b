"""The ways to save a training of several ranks: its strategy, and what each adds to the callbacks of the trainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save, save

import cairn
from cairn.policy.when import Trigger
from cairn.types import Draft, Moment

Due = Callable[[int], bool]
"""Whether a save is due after this number of batches."""
Make = Callable[[Path, Due], Sequence[Callback]]
"""Returns the callbacks that save, given the directory and when a save is due."""


@dataclass(frozen=True)
class Way:
    """One way to save.

    Attributes:
        label: Name in tables.
        make: Returns the callbacks, given the directory and when a save is due.
        synced: What of a finished save is on the disk: "yes", "files" without their directory, or "no".
        is_ours: Whether it is Cairn's.
        strategy: Returns the strategy of the trainer, given the number of ranks.
    """

    label: str
    make: Make
    synced: str = "no"
    is_ours: bool = False
    strategy: Callable[[int], Any] = lambda ranks: "ddp"


class DueTrigger:
    """A trigger like those of `cairn.policy.when`."""

    lasting = recurs = True

    def __init__(self, due: Due) -> None:
        self._due = due

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        """See `cairn.policy.when.Trigger`."""
        return self._due(moment.position.total_batches)


def _cairn(sharded: bool) -> Make:
    def make(directory: Path, due: Due) -> Sequence[Callback]:
        writing = cairn.Writing("process", when_busy="wait", sharded=sharded)
        triggers: dict[str, Trigger | None] = {"due": DueTrigger(due), "end": None}
        return [cairn.Checkpointer(directory, keep_last=1, triggers=triggers, writing=writing)]

    return make


def _lightning(directory: Path, due: Due) -> Sequence[Callback]:
    class WhenDue(ModelCheckpoint):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            if due(trainer.global_step):
                super().on_train_batch_end(trainer, pl_module, *args)

    return [WhenDue(dirpath=directory, every_n_train_steps=1, save_top_k=1)]


def _model_parallel(sharded: bool) -> Callable[[int], Any]:
    return lambda ranks: ModelParallelStrategy(ranks, 1, save_distributed_checkpoint=sharded)


class _Dcp(Callback):
    """Saves with torch.distributed.checkpoint; a new directory for each save, of which the latest is kept.

    The state is that of the module and the optimizer, without the counters of the loops. A process group of its own
    keeps the collectives of a background save apart from those of the training.
    """

    def __init__(self, directory: Path, due: Due, in_background: bool) -> None:
        self._directory, self._due, self._in_background = directory, due, in_background
        self._paths: list[Path] = []
        self._pending: Any = None
        self._group: Any = None
        self._stager: DefaultStager | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._group = dist.new_group(backend="gloo")
        if self._in_background:  # its buffers are kept from save to save; the defaults need an accelerator
            self._stager = DefaultStager(StagingOptions(False, False, False, False))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self._due(trainer.global_step):
            return
        self._wait()
        if trainer.is_global_zero:
            for old in self._paths[:-1]:
                shutil.rmtree(old)
        path = self._directory / f"{trainer.global_step:06d}"
        self._paths = [*self._paths[-1:], path]
        state = {"model": pl_module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
        if self._stager is None:
            save(state, checkpoint_id=path, process_group=self._group)
            return
        answer = async_save(
            state,
            checkpoint_id=path,
            process_group=self._group,
            async_checkpointer_type=AsyncCheckpointerType.THREAD,
            async_stager=self._stager,
        )
        self._pending = getattr(answer, "upload_completion", answer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._wait()
        if self._stager is not None:
            self._stager.close()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()


WAYS = {
    "none": Way("no checkpoints", lambda directory, due: []),
    "cairn-shards": Way("Cairn, a shard per rank", _cairn(sharded=True), synced="yes", is_ours=True),
    "cairn-file": Way("Cairn, a single file", _cairn(sharded=False), synced="yes", is_ours=True),
    "async-save": Way(
        "dcp.async_save", lambda directory, due: [_Dcp(directory, due, in_background=True)], synced="files"
    ),
    "dcp-save": Way("dcp.save", lambda directory, due: [_Dcp(directory, due, in_background=False)], synced="files"),
    "lightning": Way("ModelCheckpoint, full state on rank 0", _lightning),
    # Sharded models, each with the strategy of the library that saves it.
    "fsdp-none": Way("FSDP2, no checkpoints", lambda directory, due: [], strategy=lambda ranks: cairn.FSDP2Strategy()),
    "fsdp-cairn": Way(
        "FSDP2, Cairn", _cairn(sharded=True), "yes", is_ours=True, strategy=lambda ranks: cairn.FSDP2Strategy()
    ),
    "fsdp-sharded": Way("FSDP2, ModelCheckpoint, sharded", _lightning, "files", strategy=_model_parallel(True)),
    "fsdp-full": Way("FSDP2, ModelCheckpoint, full state", _lightning, strategy=_model_parallel(False)),
}

QUIET = tuple(name for name, way in WAYS.items() if way.label.endswith("no checkpoints"))
"""Ways that save nothing: the noise of the others."""
