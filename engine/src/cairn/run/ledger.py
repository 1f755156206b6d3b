"""Ledger of a sweep: which scheduler job trains in which run directory, and which jobs are alive."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cairn import opening, records
from cairn.errors import ResumeError
from cairn.jobs import slurm
from cairn.records import RecordError
from cairn.store import journal

Scheduler = Literal["slurm", "local"]
_CONTROLLER = "submitit.local._local"
"""Module that submitit runs as the controller of a local job."""
_WAITING = os.path.join("sweep", "slots.py")
"""Program that a local job waits in before it becomes its controller, with the same process id."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was submitted to a scheduler."""

    directory: str
    """Directory of its run, relative to the sweep."""
    scheduler: Scheduler
    job: str
    """Id of the job: SLURM's, `12` or `12_3`, or the process id of a local job's controller."""
    folder: str = ""
    """Submitit's folder, as the controller's command line names it."""


class Ledger:
    """The submitted jobs of a sweep, in a journal in the sweep's directory.

    Args:
        sweep: Directory of the sweep.
    """

    def __init__(self, sweep: Path) -> None:
        self.path = sweep / ".submitit" / "jobs.jsonl"

    def add(self, jobs: Iterable[SubmittedJob]) -> None:
        """Record jobs that were just submitted. Without the record, a second launch would submit them again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        journal.append(self.path, *(asdict(job) for job in jobs), sync=True)

    def entries(self) -> list[SubmittedJob]:
        """Return all jobs in the order of their submission.

        Raises:
            ResumeError: The ledger cannot be read.
        """
        try:
            return [job for fields in journal.read(self.path) if (job := _parse(fields)) is not None]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ResumeError(f"{self.path} cannot be read: {error.strerror or error}.") from error

    def newest(self) -> dict[str, SubmittedJob]:
        """Return the last submitted job of each directory."""
        return {job.directory: job for job in self.entries()}


def _parse(fields: Any) -> SubmittedJob | None:
    try:
        return records.read(SubmittedJob, fields)
    except RecordError:
        return None


def states(jobs: Iterable[SubmittedJob]) -> Mapping[str, str]:
    """Return the states (RUNNING, PENDING, ...) of those jobs that have not ended, by job id.

    Args:
        jobs: Jobs to look up.

    Raises:
        SlurmError: Some of them are SLURM jobs, and SLURM does not answer.
    """
    jobs = list(jobs)
    queued = slurm.queued() if any(job.scheduler == "slurm" for job in jobs) else {}
    local = {job.job: _local_state(job) for job in jobs if job.scheduler == "local"}
    return {job.job: state for job in jobs if (state := {**queued, **local}.get(job.job))}


def _local_state(job: SubmittedJob) -> str:
    """Return the state of a local job; empty if it has ended."""
    # The kernel reuses process ids: only a controller of submitit that works on this sweep is this job.
    command = _command_line(int(job.job)) if job.job.isdecimal() and len(job.job) < 20 else ""
    if _CONTROLLER not in command or job.folder not in command:
        return ""
    return "PENDING" if _WAITING in command else "RUNNING"


def _command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is none, or if it is a zombie."""
    if Path("/proc/self").exists():
        try:
            return " ".join(os.fsdecode(opening.read_bytes(Path(f"/proc/{pid}/cmdline"))).split("\0"))
        except OSError:
            return ""
    return subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout
