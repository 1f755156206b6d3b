"""Saves in which code of the user fails on one rank, many of them in one fit of two forked processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from tests.support.elastic_fit import Points
from torch import Tensor, nn

import cairn
from cairn.lightning.decision import Verdict
from cairn.store import names

PATIENT_S = 300
"""A rank that waits for the other one ends by this; it has nothing to do for longer than some seconds."""


class Fault(Exception):
    """What code of the user raises."""


@dataclass
class Faults:
    """Which hook fails now, and how."""

    hook: str = ""
    fails: Callable[[], Any] = field(default=lambda: None)

    def at(self, hook: str) -> Any:
        """Do what is to be done in a hook; return a value that the hook adds to its state."""
        return self.fails() if hook == self.hook else None


class Net(LightningModule):
    """A model whose hooks fail when they are asked to.

    Args:
        faults: Which of them fails.
        manual: Whether it takes its optimizer steps itself.
    """

    def __init__(self, faults: Faults, manual: bool) -> None:
        super().__init__()
        self.faults, self.automatic_optimization = faults, not manual
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 4) to (batch, 1)."""
        return self.leave(self.enter(x))

    def training_step(self, batch: Any) -> Tensor:
        """Return the mean squared error."""
        loss = (self(batch[0]) - batch[1]).square().mean()
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def get_extra_state(self) -> Any:
        """Return what a part of the model may add to its `state_dict`."""
        return {"more": self.faults.at("get_extra_state")}

    def set_extra_state(self, state: Any) -> None:
        """Accept it."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add a value."""
        checkpoint["more"] = self.faults.at("on_save_checkpoint")

    def configure_optimizers(self) -> Any:
        """Return an optimizer and a schedule."""
        optimizer = Optimizer(self.parameters(), lr=0.05)
        optimizer.faults = self.faults
        return [optimizer], [Schedule(optimizer, 1)]


class Optimizer(torch.optim.AdamW):
    """An optimizer whose state may fail."""

    faults: Faults

    def state_dict(self) -> dict[str, Any]:
        """Return its state."""
        more = self.faults.at("optimizer")
        return super().state_dict() | ({} if more is None else {"more": more})


class Schedule(torch.optim.lr_scheduler.StepLR):
    """A schedule whose state may fail."""

    def state_dict(self) -> dict[str, Any]:
        """Return its state."""
        more = self.optimizer.faults.at("scheduler")  # type: ignore[attr-defined]
        return super().state_dict() | ({} if more is None else {"more": more})


class Data(LightningDataModule):
    """A data module with a state."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.faults = faults

    def train_dataloader(self) -> Any:
        """Return two batches for each process."""
        return cairn.DataLoader(Points(16), 4, global_batch_size=8)

    def state_dict(self) -> dict[str, Any]:
        """Return a state."""
        return {"more": self.faults.at("data")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept it."""


class Hooks(Callback):
    """A callback with a state."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def state_dict(self) -> dict[str, Any]:
        """Return a state."""
        return {"more": self.faults.at("callback")}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add a value."""
        checkpoint["of callback"] = self.faults.at("callback on_save_checkpoint")


HOOKS = [
    *("get_extra_state", "on_save_checkpoint", "optimizer", "scheduler", "data", "callback"),
    "callback on_save_checkpoint",
]


def _raise() -> None:
    raise Fault("no disk")


def _cycle() -> Any:
    found: dict[str, Any] = {}
    found["again"] = found
    return found


WAYS: dict[str, Callable[[], Any]] = {"raises": _raise, "function": lambda: _raise, "cycle": _cycle}
"""What a hook does, or returns: an error, a value that cannot be saved, one that cannot even be compared."""


class Saves(Callback):
    """Saves once for each hook, way and rank, and once without a fault, after the first batch.

    Args:
        faults: Which hook fails.
        saving: The checkpointer.
    """

    def __init__(self, faults: Faults, saving: cairn.Checkpointer) -> None:
        self.faults, self.saving = faults, saving
        self.found: list[tuple[str, str, int, str]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save at each case; the ranks are asked after each of them whether they are at the same one."""
        if trainer.fit_loop.epoch_loop.total_batch_idx > 0:
            return
        engine = self.saving.engine
        engine.saves.begin(trainer)  # as the first boundary does: rank 0 deletes leftovers before any rank writes
        for number, (hook, way, rank) in enumerate(cases()):
            self.faults.hook = hook if trainer.global_rank == rank else ""
            self.faults.fails = WAYS[way]
            self.found.append((hook, way, rank, self._save(engine)))
            assert engine.agreement.largest(number, -number) == [number, -number]
        self.faults.hook = ""
        self.found.append(("", "", 0, self._save(engine)))

    def _save(self, engine: Any) -> str:
        leads, by_all = engine.agreement.leads, engine.sharding.is_on
        moment = engine.moments.now("batch", ends=False, busy=False)
        if leads or by_all:
            engine.saves.reserve(True, 0.0)
        verdict = Verdict(moment, ("interval",), "", engine.agreement.share(names.new_attempt()))
        try:
            engine.saving.save(verdict, lambda: engine._collected("batch", moment), lambda: engine._draft(verdict), {})
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "saved"


def cases() -> Iterator[tuple[str, str, int]]:
    """Yield hook, way and rank of each fault."""
    ways = {"on_save_checkpoint": WAYS, "callback": WAYS}
    for hook in HOOKS:
        for way in ways.get(hook, ["raises"]):
            yield from ((hook, way, rank) for rank in (0, 1))


class FailsIn(Callback):
    """Fails on one rank in a hook of training, in the second batch.

    Args:
        hook: Name of the hook.
        rank: The rank.
    """

    def __init__(self, hook: str, rank: int) -> None:
        self.rank = rank
        setattr(self, hook, self._fail)

    def _fail(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.fit_loop.epoch_loop.total_batch_idx == 1:
            raise Fault("no disk")


def fit(
    folder: Path, strategy: str, manual: bool, sharded: bool, more: Sequence[Callback] = ()
) -> list[tuple[str, str, int, str]]:
    """Fit in this process, one of two; return what each save has come to.

    Args:
        folder: Of the checkpoints.
        strategy: `ddp` or `fsdp2`.
        manual: Whether the model takes its optimizer steps itself.
        sharded: Whether each rank writes a shard.
        more: Callbacks to train with, without a save for each case.
    """
    seed_everything(0, verbose=False)
    faults, writing = Faults(), cairn.Writing("thread", sharded=sharded)
    saving = cairn.Checkpointer(folder, every=2, watchdog="off", audit="off", writing=writing)
    saves = Saves(faults, saving)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    chosen: Any = cairn.FSDP2Strategy() if strategy == "fsdp2" else strategy
    callbacks = [*more, saving] if more else [Hooks(faults), saves, saving]
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=chosen,
        max_epochs=1,
        callbacks=callbacks,
        default_root_dir=folder,
        **quiet,
    )
    trainer.fit(Net(faults, manual), Data(faults))
    return saves.found


def fits(folder: Path, chosen: Sequence[tuple[str, bool, bool]], rank: int) -> list[list[tuple[str, str, int, str]]]:
    """Do several fits in this process, one after the other; what they are is as for `fit`."""
    return [fit(folder / str(number), *options) for number, options in enumerate(chosen)]


def fit_with(folder: Path, strategy: str, manual: bool, callback: Callback, rank: int) -> Any:
    """Fit in this process with a callback."""
    return fit(folder, strategy, manual, False, [callback])


@contextmanager
def two_ranks(work: Callable[[int], Any]) -> Iterator[Callable[[], dict[int, Any]]]:
    """Start two ranks that do some work; yield a function that waits for what each has returned, by its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not forks of the process of the tests, whose threads and groups they would have copies of.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    queue: Any = forks.Queue()
    started = [forks.Process(target=_rank, args=(queue, rank, port, work)) for rank in (0, 1)]
    for process in started:
        process.start()

    def said() -> dict[int, Any]:
        found: dict[int, Any] = {}
        until = time.monotonic() + PATIENT_S
        while len(found) < 2 and time.monotonic() < until:
            ended = [process.exitcode for process in started]  # before looking: a rank answers before it ends
            try:
                found |= [queue.get(timeout=0.2)]
            except Empty:
                assert None in ended, f"the ranks have ended with {ended} and said {found}"
        assert len(found) == 2, f"only ranks {sorted(found)} have answered in {PATIENT_S} s"
        return found

    try:
        yield said
    finally:
        for process in started:
            process.kill()
            process.join()


def _rank(queue: Any, rank: int, port: int, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    try:
        found: Any = work(rank)
    except BaseException as error:
        found = f"{type(error).__name__}: {error}"
    queue.put((rank, found))
    queue.close()
    queue.join_thread()
    os._exit(0)  # nothing of the tests ends here
