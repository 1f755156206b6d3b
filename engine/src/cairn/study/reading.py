"""What the runs of a sweep say about their saves, read from their directories; nothing is judged here.

A single run is a sweep of one. What is missing or damaged in a run's directory is missing in its figures: None, or
nothing in a tuple. Imports no torch.
"""

from __future__ import annotations

import csv
import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal

from cairn.account.meter import Meter
from cairn.errors import MissingFileError, ResumeError
from cairn.runs import attempts
from cairn.runs.attempts import Attempt
from cairn.runs.directory import RunDirectory, below, newest
from cairn.store.catalog import Catalog
from cairn.types import Mode, Saved

InterruptionKind = Literal["killed", "failed", "announced", "planned"]
Row = Mapping[str, Any]

_PLANNED = {"SIGINT", "max_time"}  # somebody's own wish, as is the end of a run that was finished and then extended
_INTERVAL = "checkpoint.save_interval"


@dataclass(frozen=True)
class Save:
    """One save, as it was measured. All times in seconds."""

    step: int
    """Optimizer steps of the run at the state that was saved."""
    stall_s: float
    """Training stood still."""
    write_s: float
    """From the first byte to the commit."""
    num_bytes: int
    overhead: float | None = None
    """What saving has cost the run up to here, as a share of the time that it would have taken without."""
    skipped: int = 0
    """Interval saves that were left out up to here, because the writer was busy."""
    at_s: float | None = None
    """Training time of the run at the state: that of its manifest, or in between by the number of steps."""

    @property
    def whole_s(self) -> float | None:
        """Training time of the run when it was whole."""
        return None if self.at_s is None else self.at_s + self.stall_s + self.write_s


@dataclass(frozen=True)
class Interruption:
    """How training ended in a directory before it was started there again, and from where it went on."""

    kind: InterruptionKind
    """killed (nobody noted an end), failed (an error), announced (a signal that asks to stop: preemption, the end of a
    time slot), planned (Ctrl-C, max_time, or the run was finished)."""
    why: str
    reached_s: float
    """Training time of the run when it ended."""
    resumed_s: float
    """Training time of the run at the state that it went on from."""
    reached_batches: int
    resumed_batches: int
    at: str = ""
    """When it was started again; UTC, ISO 8601."""

    @property
    def lost_s(self) -> float:
        """Seconds of work that were done and had to be done again."""
        return max(0.0, self.reached_s - self.resumed_s)

    @property
    def lost_batches(self) -> int:
        """The same in batches."""
        return max(0, self.reached_batches - self.resumed_batches)

    @property
    def is_failure(self) -> bool:
        """Did only earlier saves help? It came without notice, or what was saved on the signal was not finished."""
        return self.kind in ("killed", "failed") or (self.kind == "announced" and self.lost_batches > 0)


@dataclass(frozen=True)
class Run:
    """What one run's directory says."""

    path: Path
    overrides: Mapping[str, str]
    """Values by key, of the command line and the sweeper."""
    status: str
    """Of run.json: running (or killed), finished, stopped, failed; empty if it cannot be read."""
    interval: str
    """`checkpoint.save_interval`; without one the names of the triggers, or `none`."""
    monitor: str
    """The metric that `best` is the best value of."""
    best: float | None
    source: Literal["checkpoints.csv", "manifests", ""]
    """What `saves` were read from; manifests: they are those of the checkpoints that are kept, others are unknown."""
    saves: tuple[Save, ...]
    """In the order in which they were written; after a restart a step may come twice."""
    kept: tuple[Saved, ...]
    """What is on disk, oldest first."""
    elapsed_s: float | None
    """Training time at its end, or as far as it has come, less what was lost at its ends."""
    total_batches: int | None
    ends: tuple[Interruption, ...] | None
    """Before its restarts, oldest first; None: it has kept no record of them."""

    @cached_property
    def once(self) -> tuple[Save, ...]:
        """The saves less those that were lost and made again: what `elapsed_s` is made of."""
        return tuple(save for _, save in sorted({save.step: save for save in self.saves}.items()))

    @property
    def num_saves(self) -> int:
        """Saves of the work that counts."""
        if self.source == "manifests":
            return self.kept[-1].number + 1
        return len(self.once)

    @property
    def skipped(self) -> int:
        """Interval saves that were left out."""
        return self.once[-1].skipped if self.once else 0

    @property
    def overhead(self) -> float | None:
        """What saving has cost, as a share of the time without, at its last save."""
        return self.once[-1].overhead if self.once else None

    @property
    def cost_s(self) -> float | None:
        """What `num_measured` saves together have cost the training: a share o / (1 + o) of its time up to then."""
        last = self.once[-1] if self.once else None
        if last is None or last.overhead is None or last.at_s is None or last.whole_s is None:
            return None
        until_s = last.at_s if self.source == "manifests" else last.whole_s
        return until_s * last.overhead / (1 + last.overhead)

    @property
    def num_measured(self) -> int:
        """Saves that `overhead` is the cost of: a manifest, written with its own save, tells that of all before."""
        return self.num_saves - 1 if self.source == "manifests" else self.num_saves

    @property
    def save_s(self) -> float | None:
        """What a save has cost the training, on average."""
        return self.cost_s / self.num_measured if self.cost_s is not None and self.num_measured else None

    @property
    def stall_s(self) -> float | None:
        """Training stood still for a save, the median."""
        return median(save.stall_s for save in self.saves) if self.saves else None

    @property
    def stalled_s(self) -> float:
        """Training stood still in all, without what was lost; of the known saves."""
        return math.fsum(save.stall_s for save in self.once)

    @property
    def write_s(self) -> float | None:
        """From the first byte to the commit, the median."""
        return median(save.write_s for save in self.saves) if self.saves else None

    @property
    def written_bytes(self) -> int | None:
        """All checkpoints that were ever written; None if only the kept ones are known."""
        return None if self.source == "manifests" else sum(save.num_bytes for save in self.saves)

    @property
    def held_bytes(self) -> int:
        """The checkpoints that are on disk."""
        return sum(saved.num_bytes for saved in self.kept)

    @property
    def work_s(self) -> float | None:
        """Training time less what saving has cost."""
        return None if self.elapsed_s is None else self.elapsed_s - (self.cost_s or 0.0)

    @property
    def batch_s(self) -> float | None:
        """Training time per batch, without saves but with all that comes between batches, validations too: so an
        interval in seconds becomes one in batches."""
        return self.work_s / self.total_batches if self.work_s and self.total_batches else None

    @property
    def spacing_s(self) -> float | None:
        """Work between two saves, on average, whatever asked for them."""
        return self.work_s / self.num_saves if self.work_s and self.num_saves else None

    @property
    def spacing_batches(self) -> float | None:
        """The same in batches."""
        return self.total_batches / self.num_saves if self.total_batches and self.num_saves else None

    @cached_property
    def at_risk_s(self) -> float | None:
        """Work that a failure would have lost, on average over the run; None if not all saves are known."""
        times = [(save.at_s, save.whole_s, save.write_s) for save in self.once]
        if not self.elapsed_s or self.source == "manifests" or any(at_s is None for at_s, *_ in times):
            return None
        meter = Meter()
        for at_s, whole_s, write_s in times:
            meter.committed(write_s, at_s=whole_s or 0.0, position_s=at_s or 0.0)
        return meter.at_risk_s(max(self.elapsed_s, times[-1][1] or 0.0) if times else self.elapsed_s)

    @property
    def lost_s(self) -> float | None:
        """Work that was really lost, over all its ends; None if it has kept no record of them."""
        return None if self.ends is None else math.fsum(end.lost_s for end in self.ends)

    @property
    def trained_s(self) -> float:
        """All training, lost work included: the time in which failures could come."""
        return (self.elapsed_s or 0.0) + (self.lost_s or 0.0)

    @property
    def unsaved_s(self) -> float | None:
        """Work that is in no checkpoint now."""
        if self.elapsed_s is None:
            return None
        return max(0.0, self.elapsed_s - (self.kept[-1].elapsed_s if self.kept else 0.0))


@dataclass(frozen=True)
class Sweep:
    """Runs to be compared, those with the shortest interval first."""

    path: Path
    runs: tuple[Run, ...]

    @cached_property
    def varied(self) -> tuple[str, ...]:
        """The overrides in which the runs differ."""
        keys = dict.fromkeys(name for run in self.runs for name in run.overrides)
        return tuple(name for name in keys if len({run.overrides.get(name) for run in self.runs}) > 1)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A short name for each run: its interval, with whatever else was varied."""
        others = [name for name in self.varied if name != _INTERVAL]
        labels = [", ".join([run.interval, *_settings(run, others)]) for run in self.runs]
        times = Counter(labels)
        return tuple(
            label if times[label] == 1 else f"{label} ({run.path.name})"
            for label, run in zip(labels, self.runs, strict=True)
        )


def find(named: str, logs: Path) -> Path:
    """The directory that a person means: a sweep, a run, or `latest`, that of the newest run below `logs`.

    Raises:
        MissingFileError: there is none.
    """
    if named != "latest":
        return Path(named).absolute()
    run = newest(logs)
    if run is None:
        raise MissingFileError(f"latest: there is no run below {logs}/. Train one first: python train.py")
    return next((path for path in run.path.parents if (path / "multirun.yaml").is_file()), run.path)


def read(path: Path) -> Sweep:
    """The runs in a directory, or the run that it is.

    Raises:
        MissingFileError: it is no directory, or there is no run in it.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "is not there"
        raise MissingFileError(f"{path} {what}: name the directory of a sweep (logs/TASK/multiruns/TIME) or of a run.")
    folders = [path] if (path / "run.json").is_file() else [run.path for run in below(path)]
    if not folders:
        raise MissingFileError(f"There is no run in {path}: none of its directories has a run.json.")
    return Sweep(path.absolute(), tuple(sorted((read_run(folder) for folder in folders), key=_order)))


def read_run(path: Path) -> Run:
    """All that a run's directory says; never fails."""
    directory = RunDirectory(path)
    record, config, progress = _json(path / "run.json"), _config(directory), _json(path / "progress.json")
    group = _mapping(config.get("checkpoint"))
    kept = tuple(filter(_is_sound, Catalog(_checkpoints(directory)).committed()))
    monitor = str(group.get("monitor") or config.get("optimized_metric") or "val/loss")
    points = _points(kept, progress)
    costs = tuple(_saves(path / "csv" / "checkpoints.csv", points))
    saves = costs or tuple(_from_manifest(saved) for saved in kept)
    at_end = max(points, key=lambda point: point[1])
    return Run(
        path=directory.path,
        overrides=_overrides(record),
        status=str(record.get("status", "")),
        interval=_interval(group),
        monitor=monitor,
        best=_best(path / "csv" / "metrics.csv", kept, monitor, "max" if group.get("mode") == "max" else "min"),
        source="checkpoints.csv" if costs else "manifests" if kept else "",
        saves=saves,
        kept=kept,
        elapsed_s=at_end[1] or None,
        total_batches=at_end[2] or None,
        ends=_ends(directory),
    )


# What the files of a run say


def _json(path: Path) -> dict[str, Any]:
    try:
        return _mapping(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}


def _config(directory: RunDirectory) -> dict[str, Any]:
    try:
        return directory.config()
    except ResumeError:
        return {}


def _checkpoints(directory: RunDirectory) -> Path:
    try:
        return directory.checkpoints()
    except ResumeError:
        return directory.path / "checkpoints"


def _is_sound(saved: Saved) -> bool:
    """Are its figures numbers? The checksum says so, but the first manifests had none."""
    place = saved.position
    facts = (
        saved.number,
        saved.elapsed_s,
        saved.stall_s,
        saved.write_s,
        saved.skipped,
        place.step,
        place.total_batches,
    )
    is_known = saved.overhead is None or _is_number(saved.overhead)
    return all(map(_is_number, facts)) and is_known and isinstance(saved.metrics, Mapping)


def _overrides(record: Row) -> dict[str, str]:
    given = record.get("overrides")
    texts = [str(item) for item in given] if isinstance(given, list) else []
    return {text.partition("=")[0].lstrip("+~"): text.partition("=")[2] for text in texts}


def _interval(group: Row) -> str:
    if group.get("save_interval") is not None:
        return str(group["save_interval"])
    return "+".join(sorted(str(name) for name in _mapping(group.get("triggers")) if name not in ("end", "signal"))) or (
        "none"
    )


def _points(kept: Sequence[Saved], progress: Row) -> list[tuple[int, float, int]]:
    """Steps, training time in seconds and batches of the run, where they are known; the start first."""
    known = [(0, 0.0, 0)]
    known += [(saved.position.step, _seconds(saved.elapsed_s), saved.position.total_batches) for saved in kept]
    known += [
        (_count(progress.get("step")), _seconds(progress.get("elapsed_s")), _count(progress.get("total_batches")))
    ]
    return sorted(known)


def _saves(path: Path, points: Sequence[tuple[int, float, int]]) -> Iterator[Save]:
    """A row each; one that was cut off by a kill is left out."""
    for row in _rows(path):
        step, stall_s, write_s, num_bytes = (_number(row.get(name)) for name in ("step", "stall_s", "write_s", "bytes"))
        if step is None or stall_s is None or write_s is None or num_bytes is None:
            continue
        share, at_s = _number(row.get("overhead")), _between(points, step)
        overhead = share if share is not None and share >= 0 else None
        yield Save(int(step), stall_s, write_s, int(num_bytes), overhead, _count(row.get("skipped")), at_s)


def _from_manifest(saved: Saved) -> Save:
    at_s = _seconds(saved.elapsed_s) or None
    return Save(saved.position.step, saved.stall_s, saved.write_s, saved.num_bytes, saved.overhead, saved.skipped, at_s)


def _between(points: Sequence[tuple[int, float, int]], step: float) -> float | None:
    """The training time at a step: on the line between the two known points beside it; None after the last one."""
    place = bisect_left(points, step, key=lambda point: point[0])
    if place == len(points):
        return None
    (before, start_s, _), (after, end_s, _) = points[max(0, place - 1)], points[place]
    return end_s if after <= before else start_s + (end_s - start_s) * (step - before) / (after - before)


def _best(path: Path, kept: Sequence[Saved], monitor: str, mode: Mode) -> float | None:
    logged = [_number(row.get(monitor)) for row in _rows(path)]
    noted = [_number(saved.metrics.get(monitor)) for saved in kept]
    values = [value for value in [*logged, *noted] if value is not None]
    return (min if mode == "min" else max)(values, default=None)


def _ends(directory: RunDirectory) -> tuple[Interruption, ...] | None:
    """The ends before its restarts; None if it has kept no record of them."""
    try:
        return tuple(_end(start, start.before) for start in attempts.read(directory) if start.before is not None)
    except OSError:
        return None


def _end(start: Attempt, before: attempts.ExitStatus) -> Interruption:
    return Interruption(
        kind=_kind(str(before.status), str(before.why)),
        why=str(before.why or ""),
        reached_s=_seconds(before.elapsed_s),
        resumed_s=_seconds(start.begins.elapsed_s),
        reached_batches=_count(before.total_batches),
        resumed_batches=_count(start.begins.total_batches),
        at=str(start.at),
    )


def _kind(status: str, why: str) -> InterruptionKind:
    if status == "stopped":
        return "planned" if why in _PLANNED else "announced"
    return "failed" if status == "failed" else "planned" if status == "finished" else "killed"


def _rows(path: Path) -> Iterator[Row]:
    try:
        with open(path, newline="", errors="replace") as file:
            yield from csv.DictReader(file)
    except (OSError, csv.Error):
        return


# Values as they should be


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and _number(value) is not None


def _seconds(value: Any) -> float:
    return max(0.0, _number(value) or 0.0)


def _count(value: Any) -> int:
    return int(_seconds(value))


def _settings(run: Run, names: Sequence[str]) -> list[str]:
    return [f"{name.rpartition('.')[2]}={run.overrides[name]}" for name in names if name in run.overrides]


def _order(run: Run) -> tuple[float, str]:
    digits = run.interval.removesuffix("ba")
    return (float(digits) if digits.isdecimal() else run.spacing_batches or math.inf, str(run.path))
