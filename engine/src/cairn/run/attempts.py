"""Attempts: when and where each process start of a run began, and how far the attempt before it had come."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cairn import records
from cairn.account import progress
from cairn.records import RecordError
from cairn.run.directory import RunDirectory, RunRecord
from cairn.store import journal
from cairn.types import Saved

log = logging.getLogger(__name__)

_noted: set[int] = set()
"""This process, once it has recorded an attempt; a forked process is another one."""


@dataclass(frozen=True)
class StartingPoint:
    """Where in the training an attempt begins."""

    total_batches: int = 0
    elapsed_s: float = 0.0
    """Training time over all attempts, in seconds."""
    name: str = ""
    """File name of the checkpoint it resumes from; empty without one."""


@dataclass(frozen=True)
class ExitStatus:
    """How an attempt ended and how far it had come."""

    status: str
    """Status in `run.json`; `running` means that the attempt was killed."""
    why: str
    """What stopped it, or the error that ended it."""
    total_batches: int
    elapsed_s: float
    """Training time over all attempts, in seconds."""
    at: float
    """Time of its last sign of life, in seconds since 1970."""
    ended: float | None = None
    """When its end was recorded, in seconds since 1970; None: it was killed, or the record is of an older version."""


@dataclass(frozen=True)
class Attempt:
    """One process start of a run."""

    at: str
    """UTC, ISO 8601."""
    host: str
    job: str
    """Id of the scheduler's job: SLURM's id, or the process id of a local job's controller. Empty without one."""
    begins: StartingPoint
    before: ExitStatus | None = None
    """How the attempt before this one ended; None for the first attempt."""
    job_restarts: int | None = None
    """How often the scheduler had restarted the job by then; None if the scheduler does not count."""
    process_age_s: float | None = None
    """How long its process had existed at `at`, for imports and the configuration; None if that is not known."""
    git: str | None = None
    """Commit of the project, with a + if files had changed since; empty outside a repository. None: not recorded."""

    @property
    def started_s(self) -> float:
        """Start of its process, in seconds since 1970; 0 if `at` is not a time."""
        return self.at_s - (self.process_age_s or 0.0) if self.at_s else 0.0

    @property
    def at_s(self) -> float:
        """`at` in seconds since 1970; 0 if it is not a time."""
        try:
            return datetime.fromisoformat(self.at).timestamp()
        except (ValueError, TypeError):
            return 0.0

    @property
    def lost_s(self) -> float:
        """Seconds of earlier training that this attempt repeats."""
        return max(0.0, self.before.elapsed_s - self.begins.elapsed_s) if self.before else 0.0

    @property
    def lost_batches(self) -> int:
        """Batches of earlier training that this attempt repeats."""
        return max(0, self.before.total_batches - self.begins.total_batches) if self.before else 0


def num_starts(tried: Sequence[Attempt], own_jobs: Container[str] = ()) -> int:
    """Count the starts of a run, including those that ended before training began.

    A job that is interrupted or killed while it imports torch leaves no attempt behind; only its scheduler counts it.

    Args:
        tried: All recorded attempts, oldest first.
        own_jobs: Ids of jobs that run nothing but this run, so that all of their starts count. A batch script may train
            one run after the other: then only its restarts between two attempts of this run count.

    Returns:
        Number of starts.
    """
    by_job: dict[str, list[int | None]] = {}
    for item in tried:
        by_job.setdefault(item.job, []).append(item.job_restarts)
    total = 0
    for job, restarts in by_job.items():
        known = [count for count in restarts if count is not None]
        first = 0 if job in own_jobs else min(known, default=0)
        # At least the recorded ones: a batch script may start a run twice without a restart of its job.
        total += max(len(restarts), max(known) - first + 1 if known else 0)
    return total


def note(
    directory: RunDirectory,
    old: RunRecord | None,
    saved: Saved | None,
    job: str,
    job_restarts: int | None = None,
    git: str | None = None,
) -> Attempt:
    """Record that an attempt starts now. If it cannot be written, log a warning and go on.

    Args:
        directory: Directory of the run.
        old: Record of the run as the previous attempt left it; None for the first attempt.
        saved: Checkpoint that this attempt resumes from.
        job: Id of the scheduler's job; empty without one.
        job_restarts: How often the scheduler has restarted the job; None if it does not count.
        git: Commit of the project; None if it is not known.

    Returns:
        The attempt as recorded.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    begins = StartingPoint(saved.position.total_batches, saved.elapsed_s, saved.name) if saved else StartingPoint()
    before, age_s = _previous_exit(directory, old), _process_age_s()
    attempt = Attempt(now, socket.gethostname(), job, begins, before, job_restarts, age_s, git)
    try:
        journal.append(directory.starts_file, asdict(attempt))
    except OSError as error:
        why = error.strerror
        log.warning("Could not write %s (%s): reports will lack this attempt.", directory.starts_file, why)
    return attempt


def _process_age_s() -> float | None:
    """Return how long this process has existed; None where that is not known, or if it has trained before."""
    if os.getpid() in _noted:  # the jobs of a sweep may follow each other in one process
        return None
    _noted.add(os.getpid())
    try:
        # The name of the command comes before the last parenthesis, and may hold anything.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    age_s = up_s - ticks / os.sysconf("SC_CLK_TCK")
    return round(age_s, 3) if age_s >= 0 else None  # some containers have an uptime of their own


def _previous_exit(directory: RunDirectory, old: RunRecord | None) -> ExitStatus | None:
    if old is None:
        return None
    reached, last = progress.read(directory.progress_file), _newest(directory)
    written = directory.record_file.stat().st_mtime
    ended = None if old.status == "running" else written
    if last is not None and (reached is None or reached.at < last.at_s):
        # The attempt ended before its first boundary: the progress file is still that of the attempt before it.
        total_batches, elapsed_s = last.begins.total_batches, last.begins.elapsed_s
    elif reached is None:
        total_batches, elapsed_s = 0, 0.0
    else:
        return ExitStatus(old.status, old.why, reached.total_batches, reached.elapsed_s, reached.at, ended)
    return ExitStatus(old.status, old.why, total_batches, elapsed_s, written, ended)


def _newest(directory: RunDirectory) -> Attempt | None:
    try:
        found = read(directory)
    except OSError:
        return None
    return found[-1] if found else None


def read(directory: RunDirectory) -> list[Attempt]:
    """Read all recorded attempts, oldest first.

    Args:
        directory: Directory of the run.

    Raises:
        OSError: The run has no record of its attempts, or it cannot be read.
    """
    found = journal.read(directory.starts_file)
    return [attempt for fields in found if (attempt := _parse(fields)) is not None]


def _parse(fields: Any) -> Attempt | None:
    try:
        found = records.read(Attempt, fields)
        for part in (found.begins, found.before):
            if part is not None:
                records.require_finite(part, "elapsed_s")
                records.require_counts(part, "total_batches")
    except RecordError:
        return None
    return found
