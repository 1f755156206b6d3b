"""Callbacks for trainings through the command line: they record batches, kill, halt, or fail."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from cairn.jobs.signals import STOP_SIGNALS
from cairn.trackers.logger import RowLogger


class RecordBatches(Callback):
    """Appends a line per batch to `batches-RANK.jsonl` in the run directory: its number and a hash of its data."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        digest = hashlib.sha256(b"".join(part.cpu().numpy().tobytes() for part in batch)).hexdigest()
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        with open(Path(self.folder or trainer.default_root_dir) / f"batches-{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps([number, trainer.current_epoch, batch_idx, digest]) + "\n")


def recorded(run: Path, rank: int = 0) -> list[list[Any]]:
    """Return the batches in their order; a batch that is repeated after a kill must be the same."""
    seen: dict[int, list[Any]] = {}
    for line in (run / f"batches-{rank}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert seen.setdefault(entry[0], entry) == entry, f"batch {entry[0]} came again with other data"
    return [seen[number] for number in sorted(seen)]


class KillAt(Callback):
    """Kills its own process (-9) at a chosen system call of a save, or inside a validation.

    CAIRN_TEST_KILL is `fsync:N` (before the N-th fsync of this process), `replace:N` (before the N-th rename of a
    checkpoint file), `unlink:N`, `validation:N` (at the N-th validation batch), `batch:N` (before the N-th batch),
    `sent:N` (the same, when MLflow, Trackio and TensorBoard have all rows so far), `saved:N` (the same, when a
    checkpoint is committed), `predict:N` (before the N-th batch of a prediction), or `setup:1`. `validation:N@1` kills
    rank 1 only.
    """

    def __init__(self) -> None:
        place, _, self.rank = os.environ.get("CAIRN_TEST_KILL", "never:0").partition("@")
        self.what, _, number = place.partition(":")
        self.left = int(number)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.rank not in ("", str(trainer.global_rank)):
            self.what = "never"
        if self.what == "setup":
            self._count()

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.what == "sent" and self.left == 1:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.flush()
                elif isinstance(logger, RowLogger):
                    assert logger.connected(300)
        if self.what == "saved" and self.left == 1:
            (checkpoints,) = trainer.checkpoint_callbacks
            while not any(checkpoints.policy.directory.glob("epoch_*.json")):
                time.sleep(0.005)
        if self.what in ("batch", "sent", "saved"):
            self._count()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.what in ("fsync", "replace", "unlink"):
            setattr(os, self.what, self._killing(getattr(os, self.what)))

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.what == "validation" and not trainer.sanity_checking:
            self._count()

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if self.what == "predict":
            self._count()

    def _killing(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return function(*args, **kwargs)

        return call

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class SlowDisk(Callback):
    """Makes each step of a save a millisecond longer: in memory, a kill would rarely hit a save."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            for name in ("fsync", "replace", "symlink", "unlink"):
                setattr(os, name, self._slow(getattr(os, name)))

    def _slow(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            time.sleep(0.001)
            return function(*args, **kwargs)

        return call


class StampBatches(Callback):
    """Makes each batch 5 ms longer, and appends its number and the time at its end to `stamps` in the run directory."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.005)
        number = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        with open(Path(trainer.default_root_dir) / "stamps", "a") as file:
            file.write(f"{number} {time.monotonic()}\n")


class SlowBatches(Callback):
    """Makes each batch take a minute, unless a signal ends it; creates a file `slow` when the first one starts."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        (Path(trainer.default_root_dir) / "slow").touch()
        for _ in range(600):
            time.sleep(0.1)


class StandStill(Callback):
    """Sleeps before the batch of this number the first time, and creates a file `stands`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        file = Path(trainer.default_root_dir) / "stands"
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at and not file.exists():
            file.touch()
            time.sleep(3600)  # the test kills it


class FailAt(Callback):
    """Raises an error after optimizer step `at`."""

    def __init__(self, at: int = 13) -> None:
        self.at = at

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.at:
            raise RuntimeError("something broke")


class SlowEvaluation(Callback):
    """Makes the sanity check or the test take a minute, and creates a file `slow` when it starts."""

    def __init__(self, place: str) -> None:
        self.place = place

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.place == "sanity" and trainer.sanity_checking:
            self._wait(trainer)

    def on_test_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.place == "test":
            self._wait(trainer)

    def _wait(self, trainer: Trainer) -> None:
        file = Path(trainer.default_root_dir) / "slow"
        if not file.exists():  # only the first time
            file.touch()
            for _ in range(600):
                time.sleep(0.1)


class FillDisk(Callback):
    """Fills a file system before one batch of the run, and frees it before another (-1: never)."""

    def __init__(self, path: str, fill: int, free: int = -1) -> None:
        self.ballast, self.when, self.free = Path(path) / "ballast", fill, free

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        if number in (self.when, self.free):  # the disk decides over the saves after this batch, not over those before
            for callback in trainer.checkpoint_callbacks:
                while callback.engine.saves.busy:
                    time.sleep(0.001)
        if number == self.when:
            found = os.statvfs(self.ballast.parent)
            self.ballast.write_bytes(bytes(found.f_bavail * found.f_frsize))
        if number == self.free:
            self.ballast.unlink()


class SendSignal(Callback):
    """Sends a signal to its own process before the thirteenth batch.

    Args:
        name: Name of the signal.
    """

    def __init__(self, name: str) -> None:
        self.number = signal.Signals[name]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == 12:
            os.kill(os.getpid(), self.number)


class LoseDirectory(Callback):
    """Takes a directory away before the thirteenth batch.

    Args:
        path: The directory.
        way: `rename` it; `replace` it by an empty one; or `unmount` it, which leaves the bare mount point.
    """

    def __init__(self, path: str, way: str) -> None:
        self.path, self.way = Path(path), way

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx != 13:
            return
        if self.way == "unmount":
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)
            return
        self.path.rename(self.path.with_name(f"{self.path.name} moved"))
        if self.way == "replace":
            self.path.mkdir()


class Halt(Callback):
    """Halts at chosen places of a run, once at each: a file `at-PLACE` appears, and the test ends it by `go-PLACE`.

    Args:
        places: `setup`, `batch:N` (before the batch with this number), `validation:N` (in the one after N batches), or
            `replace:N` (before the N-th rename of a checkpoint file by this process). `7@batch:3` is for the job of a
            sweep whose value is 7.
        value: Value of this job.
    """

    def __init__(self, *places: str, value: int = 0) -> None:
        parts = [place.rpartition("@") for place in places]
        self.places = [place for only, _, place in parts if only in ("", str(value))]
        self.folder = Path()
        self.num_replaced = 0
        self._notes = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir)
        if stage == "fit":
            self._perhaps("setup")
            replace = os.replace

            def counting(source: Any, target: Any, **more: Any) -> None:
                if str(target).endswith(".ckpt"):
                    self.num_replaced += 1
                    self._perhaps(f"replace:{self.num_replaced}")
                replace(source, target, **more)

            os.replace = counting

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A writer may rename in a thread, which receives no signals: the main thread notes them, from here to its end.
        if any(place.startswith("replace") and not (self.folder / f"at-{place}").exists() for place in self.places):
            self._notes.enter_context(_noted(self.folder))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._perhaps(f"batch:{trainer.fit_loop.epoch_loop.total_batch_idx}")

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.sanity_checking:
            self._perhaps(f"validation:{trainer.fit_loop.epoch_loop.total_batch_idx + 1}")

    def _perhaps(self, place: str) -> None:
        there = self.folder / f"at-{place}"
        if place in self.places and not there.exists():
            with _noted(self.folder):
                there.touch()
                while not (self.folder / f"go-{place}").exists():
                    time.sleep(0.02)


@contextmanager
def _noted(folder: Path) -> Iterator[None]:
    """Create a file such as `got-SIGUSR2` when a signal arrives: a test cannot know when a scheduler delivers it.

    Only in the main thread, which receives the signals.
    """
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        (folder / f"got-{signal.Signals(number).name}").touch()
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Slow(Callback):
    """Makes each batch of the first attempt take this many seconds, so that it is interrupted before its end."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if len((Path(trainer.default_root_dir) / "starts.jsonl").read_text().splitlines()) == 1:
            time.sleep(self.seconds)


class EndAt(Callback):
    """Ends ranks at chosen batches, as a crash would: each place is `ATTEMPT:RANK:BATCH:SIGNAL`.

    Args:
        places: The attempt is that of torchrun, from 0.
    """

    def __init__(self, *places: str) -> None:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.places = [place.split(":", 1)[1] for place in places if place.split(":")[0] == attempt]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for number in (signal.SIGKILL, signal.SIGTERM):
            if f"{trainer.global_rank}:{trainer.fit_loop.epoch_loop.total_batch_idx}:{number.name}" in self.places:
                os.kill(os.getpid(), number)
