"""Start-up times: `--help`, the first batch, the first batch of a resumed run."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import children, workload
from benchmarks.contenders import CONTENDERS, ROOT
from benchmarks.job import Job
from benchmarks.rounds import Settings

_SAVED_AFTER = 4  # batches
PLAIN, OURS = "model-checkpoint", "cairn-sync"
"""Contenders that write the file to resume from. The file is the same with any writer."""

HEADER = ("from the command to", "state", "plain Lightning s", "Cairn s")


@dataclass(frozen=True)
class Case:
    """A command to time. `measure` returns seconds, or None if it fails."""

    what: str
    size: str
    who: str
    measure: Callable[[], float | None]


class Startup:
    """Measures every case in every round."""

    def __init__(self, settings: Settings, sizes: tuple[str, ...], say: Callable[[str], None]) -> None:
        self.settings, self.sizes, self.say = settings, sizes, say
        self.text = workload.write_text(settings.directory / "text" / "random.txt")
        self.log = settings.directory / "log" / "startup.log"

    def run(self) -> list[dict[str, Any]]:
        """Return `what`, `size`, `who` and `seconds` (one value per round) of each case."""
        cases = list(self._cases())
        taken: dict[int, list[float]] = {number: [] for number in range(len(cases))}
        for turn in range(self.settings.rounds):
            for number in range(len(cases))[:: -1 if turn % 2 else 1]:
                if (seconds := cases[number].measure()) is not None:
                    taken[number].append(seconds)
        for case, seconds_of in zip(cases, taken.values(), strict=True):
            self.say(f"  {case.what} {case.size} {case.who}: {[round(value, 2) for value in seconds_of]}")
        return [
            {"what": case.what, "size": case.size, "who": case.who, "seconds": taken[number]}
            for number, case in enumerate(cases)
        ]

    def _cases(self) -> Iterator[Case]:
        yield Case("--help", "", "cairn", lambda: self._time([sys.executable, str(ROOT / "train.py"), "--help"]))
        imports = [sys.executable, "-c", "import lightning.pytorch"]
        yield Case("import lightning.pytorch", "", "plain", lambda: self._time(imports))
        for size in self.sizes:
            for who, name in (("plain", PLAIN), ("cairn", OURS)):
                yield Case("first batch", size, who, self._starter(name, size))
                yield Case("first batch after a resume", size, who, self._starter(name, size, self._saved(name, size)))

    def _starter(self, name: str, size: str, resume_from: Path | None = None) -> Callable[[], float | None]:
        return lambda: self._first_batch(name, size, resume_from)

    def _time(self, command: list[str]) -> float | None:
        ended = self._child(command)
        return None if ended.error else ended.wall_s

    def _first_batch(self, name: str, size: str, resume_from: Path | None) -> float | None:
        """Seconds from the start of the process to the start of a batch."""
        job = self._job(name, size, f"{size}-{name}-now")
        if resume_from is not None:
            job = self._resuming(job, name, resume_from)
        job.write()
        ended = self._child(CONTENDERS[name].command(job, self.text))
        seen = job.seen()
        shutil.rmtree(job.work_dir, ignore_errors=True)
        return None if ended.error or seen is None else seen["began"][0] - ended.began

    def _resuming(self, job: Job, name: str, saved: Path) -> Job:
        """Copy the saved run, since a resume changes it; done before the clock starts."""
        shutil.rmtree(job.work_dir, ignore_errors=True)
        shutil.copytree(saved, job.work_dir, symlinks=True)
        start = job.run_dir if name == OURS else next(job.checkpoint_dir.glob("*.ckpt"))
        return replace(job, resume_from=str(start), last_batch=_SAVED_AFTER + 3)

    def _saved(self, name: str, size: str) -> Path:
        """Directory of a run that has stopped after its first save."""
        job = replace(self._job(name, size, f"{size}-{name}-saved"), interval=_SAVED_AFTER)
        job = replace(job, last_batch=_SAVED_AFTER, first_batch=1)
        job.write()
        ended = self._child(CONTENDERS[name].command(job, self.text))
        if ended.error:
            raise SystemExit(f"Could not make a run to resume: {ended.error}")
        job.seen_path.unlink()
        return Path(job.work_dir)

    def _job(self, name: str, size: str, folder: str) -> Job:
        work_dir = self.settings.directory / "startup" / folder
        shutil.rmtree(work_dir, ignore_errors=True)
        return Job(
            contender=name,
            size=size,
            interval=1000,
            saves=0,
            first_batch=1,
            last_batch=2,
            threads=self.settings.threads[0],
            device=self.settings.device,
            work_dir=str(work_dir),
            quiet_s=0.0,
        )

    def _child(self, command: list[str]) -> children.Ended:
        return children.run(command, self.settings.threads[0], self.settings.timeout_s, self.log)


def rows(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return rows in the order of HEADER: medians and ranges."""
    table = []
    for what, size in dict.fromkeys((item["what"], item["size"]) for item in results):
        by_who = {item["who"]: item["seconds"] for item in results if (item["what"], item["size"]) == (what, size)}
        table.append(
            (
                what,
                f"{size} GB" if size[:1].isdigit() else size,
                *(_cell(by_who.get(who)) for who in ("plain", "cairn")),
            )
        )
    return table


def _cell(seconds: list[float] | None) -> str:
    if not seconds:
        return "-" if seconds is None else "failed"
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
