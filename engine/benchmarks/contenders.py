"""Contenders: one small class for each way to make a checkpoint, with the command that trains with it."""

from __future__ import annotations

import shutil
import socket
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workload
from benchmarks.job import Job

if TYPE_CHECKING:  # the parent, which only starts processes, needs no torch of its own
    from lightning.pytorch import Callback

    from benchmarks.commits import Ledger

ENGINE = Path(__file__).resolve().parents[1]
ROOT = ENGINE.parent
NO_FSYNC = "no"


@dataclass(frozen=True)
class Contender(ABC):
    """One way to make checkpoints.

    Attributes:
        name: Name on the command line.
        label: Name in tables.
        fsync: Whether a finished save is on the disk: "yes", "no", or "files" without their directory.
        baseline: Contender without checkpoints with which its memory is compared.
        saves: False for a contender without checkpoints.
        online: Logs to a W&B server, which is a stand-in on loopback.
    """

    name: str
    label: str
    fsync: str = NO_FSYNC
    baseline: str = "none"
    saves: bool = True
    online: bool = False

    @abstractmethod
    def command(self, job: Job, text: Path) -> list[str]:
        """Return the command line of the child process."""


@dataclass(frozen=True)
class Plain(Contender):
    """A minimal script with Lightning's Trainer; see plain.py."""

    def command(self, job: Job, text: Path) -> list[str]:
        """See `Contender`."""
        return [sys.executable, "-m", "benchmarks.plain", str(job.path), str(text)]

    def trainer_options(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        """Return the arguments of the Trainer that are special to this contender: callbacks, plugins."""
        return {"callbacks": [], "enable_checkpointing": False}


@dataclass(frozen=True)
class ModelCheckpoint(Plain):
    """Lightning's callback: builds the file in memory and moves it into place while training waits."""

    def trainer_options(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        """See `Plain`."""
        return {"callbacks": [_model_checkpoint(job)], "plugins": [_stamped_io(ledger)]}


@dataclass(frozen=True)
class AsyncIO(Plain):
    """The same with Lightning's plugin: clones the state and writes in a thread, with an unbounded queue."""

    def trainer_options(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        """See `Plain`."""
        from lightning.pytorch.plugins.io import AsyncCheckpointIO

        return {"callbacks": [_model_checkpoint(job)], "plugins": [AsyncCheckpointIO(_stamped_io(ledger))]}


@dataclass(frozen=True)
class Bare(Plain):
    """Not a checkpoint: a separate process writes as many bytes. The floor of what a save costs."""

    def trainer_options(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        """See `Plain`."""
        from benchmarks.bare import BareWrite

        num_bytes = workload.num_state_bytes(workload.state_tensors(workload.SIZES[job.size]))
        return {"callbacks": [BareWrite(job, ledger, num_bytes)], "enable_checkpointing": False}


@dataclass(frozen=True)
class LogModel(Plain):
    """ModelCheckpoint, and Lightning's W&B logger with `log_model="all"`: hashes and copies while training waits."""

    def trainer_options(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        """See `Plain`."""
        from lightning.pytorch.loggers import WandbLogger

        job.run_dir.mkdir(parents=True, exist_ok=True)
        logger = WandbLogger(save_dir=job.run_dir, project="benchmark", log_model="all")
        return {"callbacks": [_model_checkpoint(job)], "plugins": [_stamped_io(ledger)], "logger": logger}


@dataclass(frozen=True)
class Distributed(Plain):
    """`torch.distributed.checkpoint.async_save` in a gloo group of one process.

    Used as well as possible: the stager is kept, so that its buffers are reused. A new save waits for the one before,
    as in its documentation. It does not save the counters of the loops.

    Attributes:
        kind: What writes: "thread" or "process".
    """

    kind: str = "thread"

    def trainer_options(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        """See `Plain`."""
        return {"callbacks": [_async_save(job, ledger, self.kind)], "enable_checkpointing": False}


@dataclass(frozen=True)
class Cairn(Contender):
    """The real command of this repository.

    Attributes:
        settings: Overrides of the group `checkpoint`.
        logger: Option of the group `logger`.
    """

    fsync: str = "yes"
    baseline: str = "cairn-none"
    settings: tuple[str, ...] = ()
    logger: str = "none"

    def command(self, job: Job, text: Path) -> list[str]:
        """See `Contender`."""
        train = [sys.executable, str(ROOT / "train.py")]
        if job.resume_from:
            return [*train, f"resume={job.resume_from}", *self._probe(job), f"trainer.max_steps={job.max_batches}"]
        return [*train, *self._run(job), *workload.overrides(workload.SIZES[job.size], text), *self._checkpoint(job)]

    def _run(self, job: Job) -> list[str]:
        return [
            f"hydra.run.dir={job.run_dir}",
            *self._probe(job),
            f"logger={self.logger}",
            *(["logger.wandb.offline=false"] if self.online else []),
            "test=false",
            f"trainer={'gpu' if job.device == 'cuda' else 'cpu'}",
            "trainer.max_epochs=-1",
            f"trainer.max_steps={job.max_batches}",
            "trainer.enable_progress_bar=false",
            "trainer.limit_val_batches=0",
            "trainer.num_sanity_val_steps=0",
        ]

    def _probe(self, job: Job) -> list[str]:
        return ["callbacks=none", f"+callbacks.probe={{_target_:benchmarks.probe.Probe,job:'{job.path}'}}"]

    def _checkpoint(self, job: Job) -> list[str]:
        if not self.saves:
            return ["checkpoint=none"]
        # As the peers: one file is kept, and there is no save at the end.
        common = ["checkpoint=interval", "checkpoint.keep_last=1", "~checkpoint.triggers.end", *self.settings]
        if not job.interval:
            return [*common, "checkpoint.save_interval=auto"]
        trigger = f"{{_target_:benchmarks.trigger.InBlocks,job:'{job.path}'}}"
        return [*common, "~checkpoint.triggers.interval", f"+checkpoint.triggers.blocks={trigger}"]


def _cairn(name: str, label: str, **keys: str) -> Cairn:
    # ++: also for a checkout whose configuration does not know the key yet
    return Cairn(name, label, settings=tuple(f"++checkpoint.{key}={value}" for key, value in keys.items()))


_PROCESS = ("++checkpoint.writer=process",)
CONTENDERS: dict[str, Contender] = {
    item.name: item
    for item in (
        Plain("none", "no checkpoints", saves=False),
        Bare("bare-write", "floor: the bytes alone, from a process", fsync="files"),
        ModelCheckpoint("model-checkpoint", "ModelCheckpoint"),
        AsyncIO("async-io", "ModelCheckpoint + AsyncCheckpointIO"),
        Distributed("async-save", "dcp.async_save, thread", fsync="files"),
        Distributed("async-save-process", "dcp.async_save, process", fsync="files", kind="process"),
        Cairn("cairn-none", "Cairn, no checkpoints", saves=False),
        _cairn("cairn-process", "Cairn, process", writer="process"),
        _cairn("cairn-process-1", "Cairn, process, 1 buffer", writer="process", buffers="1"),
        _cairn("cairn-process-overlap", "Cairn, process, overlap", writer="process", overlap="true"),
        _cairn("cairn-process-blocking", "Cairn, process, no overlap", writer="process", overlap="false"),
        _cairn("cairn-thread", "Cairn, thread", writer="thread"),
        _cairn("cairn-sync", "Cairn, sync", writer="sync"),
        Cairn("cairn-wandb", "Cairn, process, W&B offline", settings=_PROCESS, logger="wandb"),
        Cairn("cairn-wandb-online", "Cairn, process, W&B online", settings=_PROCESS, logger="wandb", online=True),
        LogModel("log-model", 'ModelCheckpoint, log_model="all"', online=True),
        _cairn("cairn-auto", "Cairn, interval auto", max_overhead="0.01"),
    )
}
PEERS = ("model-checkpoint", "async-io", "async-save", "async-save-process")
WITH_WANDB = ("cairn-process", "model-checkpoint", "cairn-wandb", "cairn-wandb-online", "log-model")
"""Contenders that show what W&B adds: with it, and the same without."""
_SPECIAL = {"cairn-auto", "cairn-process-blocking", "cairn-wandb", "cairn-wandb-online", "log-model"}
DEFAULT = tuple(name for name in CONTENDERS if name not in _SPECIAL)


def _model_checkpoint(job: Job) -> Callback:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    class InBlocks(ModelCheckpoint):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            if job.is_due(trainer.global_step):
                super().on_train_batch_end(trainer, pl_module, *args)

    return InBlocks(dirpath=job.checkpoint_dir, every_n_train_steps=1, save_top_k=1)


def _stamped_io(ledger: Ledger) -> Any:
    """Lightning's own way to write a file, with a note in the ledger when it is done."""
    from lightning.fabric.plugins import TorchCheckpointIO

    class Stamped(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint(checkpoint, path, storage_options)
            ledger.end(checkpoint["global_step"], Path(path))

    return Stamped()


def _async_save(job: Job, ledger: Ledger, kind: str) -> Callback:
    import torch.distributed as dist
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save

    class AsyncSave(Callback):
        def __init__(self) -> None:
            in_process = kind == "process"
            self.type = AsyncCheckpointerType.PROCESS if in_process else AsyncCheckpointerType.THREAD
            # The defaults of StagingOptions need an accelerator; these do not. A process reads shared memory.
            on_gpu = job.device == "cuda"
            self.stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=on_gpu,
                    use_shared_memory=in_process,
                    use_async_staging=False,
                    use_non_blocking_copy=on_gpu,
                )
            )
            self.future: Any = None
            self.paths: list[Path] = []

        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            _join_group_of_one(job.device)

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            batch = trainer.global_step
            if job.is_due(batch):
                self.wait()
                for old in self.paths[:-1]:
                    shutil.rmtree(old)
                path = job.checkpoint_dir / f"{batch:06d}"
                self.paths = [*self.paths[-1:], path]
                state = {"model": pl_module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
                answer = async_save(
                    state, checkpoint_id=path, async_checkpointer_type=self.type, async_stager=self.stager
                )
                self.future = getattr(answer, "upload_completion", answer)
                self.future.add_done_callback(lambda _: ledger.end(batch, path))

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.wait()
            self.stager.close()

        def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            dist.destroy_process_group()

        def wait(self) -> None:
            if self.future is not None:
                self.future.result()

    return AsyncSave()


def _join_group_of_one(device: str) -> None:
    """Join a process group, by variables that the process started by `async_save` reads too."""
    import os

    import torch.distributed as dist

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ.update(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
