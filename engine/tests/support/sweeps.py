"""Sweeps over `save_interval` through the real command line, and the state of their jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, Process, start
from tests.support.equality import Outcome, outcome

from cairn.run import attempts
from cairn.run.directory import RunDirectory
from cairn.run.ledger import Ledger

INTERVAL = "checkpoint.save_interval"
COMMAND = [
    *QUICK,
    RECORD,
    "checkpoint=interval",
    "model=mlp",
    "trainer.max_epochs=3",
    "checkpoint.when_busy=wait",
    "checkpoint.writer=thread",
    "test=false",
]
"""Sixty batches."""


def halt(*places: str) -> str:
    """Return an override that halts the jobs at these places, see `Halt`."""
    value = f"${{{INTERVAL}}}"
    return f"+callbacks.halt={{_target_: tests.support.callbacks.Halt, _args_: {list(places)}, value: {value}}}"


def sweep(folder: Path, values: Sequence[int], *overrides: str, **more: Any) -> Process:
    """Start a sweep over these intervals; `more` goes to `start`."""
    swept = f"{INTERVAL}={','.join(map(str, values))}"
    return start(None, "-m", *COMMAND, swept, f"hydra.sweep.dir={folder}", *overrides, **more)


def run_of(folder: Path, value: int) -> Path:
    """Return the directory of one job, once it exists."""
    (found,) = (
        run for run in folder.glob(f"*{INTERVAL}={value}*") if f"{INTERVAL}={value}" in re.split("[,-]", run.name)
    )
    return found


def has(folder: Path, values: Sequence[int], file: str) -> Callable[[], bool]:
    """Return a function that checks whether all of the jobs have a file."""
    wanted = {f"{INTERVAL}={value}" for value in values}
    return lambda: wanted <= {part for path in folder.glob(f"*/{file}") for part in re.split("[,-]", path.parent.name)}


def go(folder: Path, value: int, place: str) -> None:
    """Let a job continue that halts there."""
    (run_of(folder, value) / f"go-{place}").touch()


def job_of(folder: Path, value: int) -> str:
    """Return the scheduler's id of the job."""
    return Ledger(folder).newest()[run_of(folder, value).name].job


def starts(folder: Path, value: int) -> list[attempts.Attempt]:
    """Return the recorded attempts of a job."""
    return attempts.read(RunDirectory(run_of(folder, value)))


def ends_of(run: Path) -> Outcome:
    """Return how a run has ended."""
    return outcome(run, recorded(run))


def status(folder: Path, **env: str) -> tuple[int, dict[int, dict[str, Any]]]:
    """Return the exit code of `python -m cairn status`, and its jobs by their intervals."""
    code, found = _cairn("status", folder, **env)
    jobs = {job["name"].partition(f"{INTERVAL}=")[2].partition(",")[0]: job for job in found}
    return code, {int(value): job for value, job in jobs.items()}


def report(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the runs in `python -m cairn report`, by their intervals."""
    return {int(run["interval"]): run for run in _cairn("report", folder)[1]["runs"]}


def _cairn(name: str, folder: Path, **env: str) -> tuple[int, Any]:
    process = Process(["-m", "cairn", name, str(folder), "--json"], False, **env)
    code = process.wait()
    return code, json.loads(process.output)
