"""Reads the measurements of runs from their directories. A damaged or missing file never makes it fail.

Imports no torch.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn import opening, records
from cairn.account import progress as progress_file
from cairn.errors import MissingFileError, ResumeError
from cairn.run import attempts, goodput, status
from cairn.run.attempts import Attempt, ExitStatus
from cairn.run.directory import RunDirectory, below, newest
from cairn.run.terminal import printable
from cairn.store.catalog import Catalog
from cairn.study.measured import Interruption, InterruptionKind, Run, Save, Sweep
from cairn.types import Mode, Saved

_ENDS = ("finished", "paused")
_PLANNED = {"SIGINT", "max_time"}
"""Stops that the user asked for, as is the end of a run that was finished and then extended."""
_Point = tuple[int, float, int]
"""Steps, training time in seconds and batches of a run at one moment."""


def find(named: str, logs: Path) -> Path:
    """Return the directory that a user names.

    Args:
        named: Directory of a sweep or of a run, or `latest` for that of the newest run.
        logs: Where `latest` looks for runs.

    Raises:
        MissingFileError: There is no run for `latest`.
    """
    if named != "latest":
        return Path(named).absolute()
    run = newest(logs)
    if run is None:
        raise MissingFileError(f"latest: there is no run below {logs}/. Train one first: python train.py")
    marks = ("multirun.yaml", "sweep.json")
    inside = [path for path in run.path.parents if path.is_relative_to(logs.absolute())]
    return next((path for path in inside if any((path / mark).is_file() for mark in marks)), run.path)


def read(path: Path) -> Sweep:
    """Read the runs in a directory, or the single run that it is.

    Args:
        path: Directory of a sweep or of a run.

    Raises:
        MissingFileError: It is not a directory, or holds no run.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise MissingFileError(f"{path} {what}: name the directory of a sweep (logs/TASK/multiruns/TIME) or of a run.")
    folders = [path] if (path / "run.json").is_file() else [run.path for run in below(path)]
    if not folders:
        raise MissingFileError(f"There is no run in {path}: none of its directories has a run.json.")
    return Sweep(path.absolute(), tuple(sorted((read_run(folder) for folder in folders), key=_order)))


def read_run(path: Path) -> Run:
    """Read everything that a run's directory says; never fails."""
    directory = RunDirectory(path)
    record, config, progress = _json(path / "run.json"), _config(directory), _json(path / "progress.json")
    group = _mapping(config.get("checkpoint"))
    kept = tuple(filter(_is_sound, Catalog(_checkpoints(directory, config)).committed()))
    monitor = str(group.get("monitor") or config.get("optimized_metric") or "val/loss")
    points = _points(kept, progress)
    rows = tuple(_saves(path / "csv" / "checkpoints.csv", points))
    at_end = max(points, key=lambda point: point[1])
    return Run(
        path=directory.path,
        overrides=_overrides(record),
        status=str(record.get("status", "")),
        interval=_interval(group),
        monitor=printable(monitor),  # pictures and pages show it
        best=_best(path / "csv" / "metrics.csv", kept, monitor, "max" if group.get("mode") == "max" else "min"),
        source="checkpoints.csv" if rows else "manifests" if kept else "",
        saves=rows or tuple(_from_manifest(saved) for saved in kept),
        kept=kept,
        elapsed_s=at_end[1] or None,
        total_batches=at_end[2] or None,
        ends=_interruptions(directory),
        **_time(directory, kept),
    )


# The files of a run


def _json(path: Path) -> dict[str, Any]:
    try:
        return _mapping(records.parse(opening.read_bytes(path)))
    except (OSError, ValueError):
        return {}


def _config(directory: RunDirectory) -> dict[str, Any]:
    try:
        return directory.config("checkpoint", "optimized_metric", "paths")
    except ResumeError:
        return {}


def _checkpoints(directory: RunDirectory, config: Mapping[str, Any]) -> Path:
    try:
        return directory.checkpoints(config)
    except ResumeError:
        return directory.path / "checkpoints"


def _is_sound(saved: Saved) -> bool:
    """Return whether the figures of a manifest are numbers."""
    # Its checksum says so, but the first manifests had none.
    position = saved.position
    facts = (
        saved.number,
        saved.elapsed_s,
        saved.stall_s,
        saved.write_s,
        saved.skipped,
        position.step,
        position.total_batches,
    )
    is_known = saved.overhead is None or _is_number(saved.overhead)
    return all(map(_is_number, facts)) and is_known and isinstance(saved.metrics, Mapping)


def _overrides(record: Mapping[str, Any]) -> dict[str, str]:
    given = record.get("overrides")
    texts = [printable(str(item)) for item in given] if isinstance(given, list) else []
    pairs = (text.partition("=") for text in texts)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _interval(group: Mapping[str, Any]) -> str:
    if group.get("save_interval") is not None:
        return printable(str(group["save_interval"]))
    triggers = sorted(str(name) for name in _mapping(group.get("triggers")) if name not in ("end", "signal"))
    return "+".join(triggers) or "none"


def _points(kept: Sequence[Saved], progress: Mapping[str, Any]) -> list[_Point]:
    """Return the known points of a run, sorted; the first is its start."""
    known: list[_Point] = [(0, 0.0, 0)]
    known += [(saved.position.step, _seconds(saved.elapsed_s), saved.position.total_batches) for saved in kept]
    known += [
        (_count(progress.get("step")), _seconds(progress.get("elapsed_s")), _count(progress.get("total_batches")))
    ]
    return sorted(known)


def _saves(path: Path, points: Sequence[_Point]) -> Iterator[Save]:
    """Yield a save for each complete row of checkpoints.csv."""
    for row in _rows(path):
        step, stall_s, write_s, num_bytes = (_number(row.get(name)) for name in ("step", "stall_s", "write_s", "bytes"))
        if step is None or stall_s is None or write_s is None or num_bytes is None:
            continue
        share, at_s = _number(row.get("overhead")), _interpolated_s(points, step)
        overhead = share if share is not None and share >= 0 else None
        yield Save(int(step), stall_s, write_s, int(num_bytes), overhead, _count(row.get("skipped")), at_s)


def _from_manifest(saved: Saved) -> Save:
    at_s = _seconds(saved.elapsed_s) or None
    return Save(saved.position.step, saved.stall_s, saved.write_s, saved.num_bytes, saved.overhead, saved.skipped, at_s)


def _interpolated_s(points: Sequence[_Point], step: float) -> float | None:
    """Return the training time at a step, linear between the two nearest points; None after the last point."""
    place = bisect_left(points, step, key=lambda point: point[0])
    if place == len(points):
        return None
    (before, start_s, _), (after, end_s, _) = points[max(0, place - 1)], points[place]
    return end_s if after <= before else start_s + (end_s - start_s) * (step - before) / (after - before)


def _best(path: Path, kept: Sequence[Saved], monitor: str, mode: Mode) -> float | None:
    logged = [_number(text) for text in _column(path, monitor)]
    noted = [_number(saved.metrics.get(monitor)) for saved in kept]
    values = [value for value in [*logged, *noted] if value is not None]
    return (min if mode == "min" else max)(values, default=None)


def _interruptions(directory: RunDirectory) -> tuple[Interruption, ...] | None:
    try:
        found = attempts.read(directory)
    except OSError:
        return None
    return tuple(_interruption(attempt, attempt.before) for attempt in found if attempt.before is not None)


def _interruption(attempt: Attempt, before: ExitStatus) -> Interruption:
    return Interruption(
        kind=_kind(str(before.status), str(before.why)),
        why=str(before.why or ""),
        reached_s=_seconds(before.elapsed_s),
        resumed_s=_seconds(attempt.begins.elapsed_s),
        reached_batches=_count(before.total_batches),
        resumed_batches=_count(attempt.begins.total_batches),
        at=str(attempt.at),
    )


def _time(directory: RunDirectory, kept: Sequence[Saved]) -> dict[str, Any]:
    """Return what the time of a run was spent on, and its attempts on the clock."""
    try:
        tried, record = attempts.read(directory), directory.record()
        reached = progress_file.read(directory.progress_file)
    except (OSError, ResumeError, RecursionError):
        return {}
    state = status.from_files(record, reached, tried)
    last = status.last_of(directory, record, state, reached, kept[-1] if kept else None)
    return {"spent": goodput.spent(tried, last), "spans": tuple(goodput.spans(tried, last))}


def _kind(status: str, why: str) -> InterruptionKind:
    if status == "stopped":
        return "planned" if why in _PLANNED else "announced"
    known: dict[str, InterruptionKind] = {"failed": "failed", "hung": "hung", **dict.fromkeys(_ENDS, "planned")}
    return known.get(status, "killed")


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with opening.rows(path, newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, ValueError, csv.Error):
        return


def _column(path: Path, name: str) -> Iterator[str]:
    """Yield a column: of the metrics of a long run, a dict for each row would take seconds."""
    try:
        with opening.rows(path, newline="") as file:
            rows = csv.reader(file)
            place = {header: number for number, header in enumerate(next(rows, []))}.get(name)
            if place is not None:
                yield from (row[place] for row in rows if place < len(row))
    except (OSError, csv.Error):
        return


# Values of the expected types


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


def _order(run: Run) -> tuple[float, str]:
    digits = run.interval.removesuffix("ba")
    return (float(digits) if digits.isdecimal() else run.spacing_batches or math.inf, str(run.path))
