"""Measures in the training thread, equally for all contenders: when each batch begins and ends, what a window costs."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks import contenders, processes
from benchmarks.commits import Commits, Manifests
from benchmarks.job import Job, read

_IDLE_TIMEOUT_S = 120.0


class Probe(Callback):
    """The first callback, so that everything a contender does after a batch lies between two of its stamps.

    Args:
        job: Path of the job.
        commits: Source of the times of finished saves; by default, Cairn's manifests.
    """

    def __init__(self, job: str, commits: Commits | None = None) -> None:
        self.job: Job = read(job)
        saves = contenders.CONTENDERS[self.job.contender].saves
        self._commits: Commits = commits or Manifests(self.job.checkpoint_dir, self.job.quiet_s if saves else 0.0)
        self._saves = saves
        self._starts = {start for pair in self.job.pairs for start in pair}
        self._ends = {start + self.job.block for start in self._starts}
        self._marks: dict[int, dict[str, float]] = {}
        self._began: list[float] = []
        self._ended: list[float] = []
        self._seen: dict[str, Any] = {}
        self._clock_offset = time.time() - time.perf_counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        torch.set_num_threads(self.job.threads)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if len(self._ended) == self.job.last_batch and self._saves and self.job.is_due(self.job.last_batch):
            self._commits.wait_for(self.job.last_batch, _IDLE_TIMEOUT_S)
        self._began.append(self._now())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._ended.append(self._now())
        self._commits.look()
        self._mark(len(self._ended))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._commits.look()
        self._seen |= {
            "began": [stamp + self._clock_offset for stamp in self._began],
            "ended": [stamp + self._clock_offset for stamp in self._ended],
            "finished": self._commits.finished(),
            "details": self._commits.details(),
            "marks": self._marks,
            "engine": _numbers_of_engine(trainer),
        }
        self.job.seen_path.write_text(json.dumps(self._seen))

    def _mark(self, batch: int) -> None:
        """At the end of a block, wait for unfinished saves; at its start and end, read the counters."""
        ends = batch in self._ends or batch == self.job.last_batch
        if not (ends or batch in self._starts or batch == self.job.first_batch):
            return
        drain_s = self._come_to_rest() if ends else 0.0
        self._marks[batch] = {**self._tree(), "drain_s": drain_s}
        self._seen["idle_began"] = time.time()

    def _come_to_rest(self) -> float:
        """Wait until nothing is being written, for all contenders alike.

        What is left in the page cache would otherwise be written in the block without saves.

        Returns:
            Seconds that the contender needed for unfinished saves.
        """
        drained = self._commits.settle() if self._saves else 0.0
        drain_s = max(0.0, drained - self._clock_offset - self._ended[-1])
        os.sync()
        time.sleep(self.job.quiet_s)
        return drain_s

    def _tree(self) -> dict[str, float]:
        pids = processes.tree(os.getpid())
        return {
            "at": time.time(),
            "cpu_s": processes.cpu_s(pids),
            "busy_s": processes.busy_s(),
            "written_bytes": processes.written_bytes(pids),
        }

    def _now(self) -> float:
        if self.job.device == "cuda":
            # Only the stream that trains: a copy on a side stream may continue.
            torch.cuda.current_stream().synchronize()
        return time.perf_counter()


def _numbers_of_engine(trainer: Trainer) -> dict[str, Any]:
    """Return Cairn's own measurements and its writer; nothing for other contenders."""
    engine: Any = next((item for item in trainer.checkpoint_callbacks if hasattr(item, "telemetry")), None)
    if engine is None or engine.saver is None:
        return {}
    numbers = {key: value for key, value in vars(engine.telemetry.meter).items() if isinstance(value, int | float)}
    return {"writer": type(engine.saver.writer).__name__, **numbers}
