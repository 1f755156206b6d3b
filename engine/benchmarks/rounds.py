"""Rounds: each contender runs once per round, in a changing order, and the floors are measured each time."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import children, workload
from benchmarks.contenders import CONTENDERS
from benchmarks.job import Job

_MEMORY_SAVES = 3
_CALIBRATION_BATCHES = 12
_LEAST_QUIET_S = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """Settings from the command line."""

    sizes: tuple[str, ...]
    contenders: tuple[str, ...]
    rounds: int
    threads: tuple[int, ...]
    factors: tuple[float, ...]
    """Intervals between two saves, in write times."""
    saves: int
    """Saves in each block of a run's window, at the smallest factor."""
    pairs: int
    """Pairs of blocks in each run's window: one with saves, one without."""
    device: str
    directory: Path
    """A folder on the measured disk; emptied after every run."""
    timeout_s: float
    auto_s: float
    """Length of the trainings that measure `auto`."""
    memory: bool = True


@dataclass(frozen=True)
class Setting:
    """What is the same for all contenders of a comparison."""

    size: str
    threads: int
    factor: float
    interval: int
    """Batches between two saves."""
    saves: int
    write_s: float
    batch_s: float


def order(names: Sequence[str], number: int) -> list[str]:
    """Return the order in round `number`: rotated by one each time and reversed every other, so that drift hits all."""
    turned = [*names[number % len(names) :], *names[: number % len(names)]]
    return turned[::-1] if number % 2 else turned


def interval(factor: float, write_s: float, batch_s: float, least: int) -> int:
    """Return the batches between two saves that are `factor` write times apart."""
    return max(least, math.ceil(factor * write_s / batch_s))


def distinct(settings: Sequence[Setting]) -> list[Setting]:
    """Remove settings with equal intervals: a small state is written within one batch at any factor."""
    return list({setting.interval: setting for setting in reversed(settings)}.values())[::-1]


class Bench:
    """Runs children in `settings.directory` and collects their results as plain JSON values."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings, self.say = settings, say
        self.text = workload.write_text(settings.directory / "text" / "random.txt")
        self.floors: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []

    def compare(self) -> None:
        """Measure all contenders at every size, number of threads and interval."""
        for size in self.settings.sizes:
            for threads in self.settings.threads:
                self._compare_at(size, threads)

    def memory(self) -> None:
        """Measure only the memory of all contenders, at every size."""
        for size in self.settings.sizes:
            batch_s, write_s = self._calibrate(size, self.settings.threads[0])
            self._memory_at(self._setting(size, self.settings.threads[0], min(self.settings.factors), batch_s, write_s))

    def auto(self, size: str) -> None:
        """Measure `checkpoint.save_interval=auto` against no checkpoints, for about `auto_s` of training each."""
        for threads in self.settings.threads:
            batch_s, _ = self._calibrate(size, threads)
            last = max(_CALIBRATION_BATCHES, math.ceil(self.settings.auto_s / batch_s))
            for number in range(self.settings.rounds):
                for name in order(("cairn-none", "cairn-auto"), number):
                    self._run(self._job(name, size, threads, last=last), part="auto", round=number)

    def _compare_at(self, size: str, threads: int) -> None:
        batch_s, write_s = self._calibrate(size, threads)
        settings = distinct(
            [self._setting(size, threads, factor, batch_s, write_s) for factor in self.settings.factors]
        )
        for number in range(self.settings.rounds):
            if number:
                self._measure_floors(size, number)
            for setting in settings:
                for name in order(self.settings.contenders, number):
                    self._run(self._timed_job(name, setting), part="time", round=number, setting=asdict(setting))
        if self.settings.memory:
            self._memory_at(settings[0])

    def _memory_at(self, setting: Setting) -> None:
        for name in self._with_baselines():
            job = self._timed_job(name, setting, saves=_MEMORY_SAVES, pairs=1)
            self._run(job, part="memory", round=0, setting=asdict(setting))

    def _with_baselines(self) -> Iterator[str]:
        """Return all contenders and their baselines, with which their memory is compared."""
        baselines = {CONTENDERS[name].baseline for name in self.settings.contenders}
        yield from dict.fromkeys([*sorted(baselines), *self.settings.contenders])

    def _calibrate(self, size: str, threads: int) -> tuple[float, float]:
        """Median time of a batch without checkpoints, and of a bare write; in seconds."""
        write_s = statistics.median(self._measure_floors(size, 0)["write_s"])
        job = self._job("none", size, threads, last=_CALIBRATION_BATCHES)
        seen = self._run(job, part="calibration", round=0)["seen"]
        if seen is None:
            raise SystemExit(f"A training without checkpoints failed: {self.runs[-1]['error']}")
        ended = seen["ended"][2:]  # the first batches warm up
        return statistics.median(b - a for a, b in itertools.pairwise(ended)), write_s

    def _setting(self, size: str, threads: int, factor: float, batch_s: float, write_s: float) -> Setting:
        num = interval(factor, write_s, batch_s, workload.SIZES[size].least_interval)
        # Fewer saves where they are far apart, so that all blocks are about equally long.
        saves = max(1, round(self.settings.saves * min(self.settings.factors) / factor))
        saves = min(saves, workload.SIZES[size].most_saves or saves)
        self.say(f"{size}, {threads} threads: W {write_s:.3f} s, a batch {batch_s:.3f} s, a save every {num} batches")
        return Setting(size, threads, factor, num, saves, write_s, batch_s)

    def _timed_job(self, name: str, setting: Setting, saves: int = 0, pairs: int = 0) -> Job:
        # The first save is before the window: it has costs of its own (a process to start, pages to touch).
        first, saves = 2 * setting.interval, saves or setting.saves
        last = Job.end(first, setting.interval, saves, pairs or self.settings.pairs)
        return self._job(
            name, setting.size, setting.threads, last, first, setting.interval, saves, write_s=setting.write_s
        )

    def _job(
        self,
        name: str,
        size: str,
        threads: int,
        last: int,
        first: int = 1,
        interval: int = 0,
        saves: int = 0,
        write_s: float = 0.0,
    ) -> Job:
        return Job(
            contender=name,
            size=size,
            interval=interval,
            saves=saves,
            first_batch=first,
            last_batch=last,
            threads=threads,
            device=self.settings.device,
            work_dir=str(self.settings.directory / "job"),
            quiet_s=max(_LEAST_QUIET_S, 2 * write_s),
        )

    def _run(self, job: Job, part: str, round: int, **more: Any) -> dict[str, Any]:
        work_dir = Path(job.work_dir)
        shutil.rmtree(work_dir, ignore_errors=True)
        job.write()
        command = CONTENDERS[job.contender].command(job, self.text)
        log = self.settings.directory / "log" / f"{part}-{job.size}-{job.threads}-{job.contender}.log"
        with _server(job) as env:
            ended = children.run(
                command, job.threads, self.settings.timeout_s, log, watch_memory=part == "memory", env=env
            )
        result = {
            "part": part,
            "round": round,
            "job": asdict(job),
            "seen": job.seen(),
            "peak_bytes": ended.peak_bytes,
            "wall_s": ended.wall_s,
            "cpu_s": ended.cpu_s,
            "error": ended.error,
            **more,
        }
        self.runs.append(result)
        self.say(f"  {part} {job.size} round {round}: {job.contender} {ended.error or f'{ended.wall_s:.0f} s'}")
        shutil.rmtree(work_dir, ignore_errors=True)
        return result

    def _measure_floors(self, size: str, number: int) -> dict[str, Any]:
        repeats = 5
        command = [sys.executable, "-m", "benchmarks.floors", size]
        arguments = [str(self.settings.directory), self.settings.device, str(repeats)]
        ended = children.run(
            [*command, *arguments], 1, self.settings.timeout_s, self.settings.directory / "log" / "floors.log"
        )
        if ended.error:
            raise SystemExit(f"The floors could not be measured: {ended.error}")
        floors: dict[str, Any] = {"size": size, "round": number, **json.loads(ended.output)}
        self.floors.append(floors)
        return floors


@contextmanager
def _server(job: Job) -> Iterator[dict[str, str]]:
    """Environment of a child; for one that logs online, with a server, whose cost counts."""
    if not CONTENDERS[job.contender].online:
        yield {}
        return
    from tests.support.wandb_server import WandbServer

    folders = {f"WANDB_{name}": f"{job.work_dir}/wandb" for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR")}
    with WandbServer() as server:
        yield server.environment | folders
