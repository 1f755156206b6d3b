"""How often a run was started, where each attempt began, and how far the one before it had come."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from cairn.account import progress
from cairn.runs.directory import Record, RunDirectory
from cairn.types import Saved

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """A place in a training."""

    total_batches: int = 0
    elapsed_s: float = 0.0
    """Training time over all attempts, in seconds."""
    name: str = ""
    """Of the checkpoint there, if it is one."""


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    status: str
    """As in `run.json`; `running`: it was killed."""
    why: str
    total_batches: int
    elapsed_s: float
    at: float
    """When it was last heard of, in seconds since 1970."""


@dataclass(frozen=True)
class Attempt:
    """One start of a training."""

    at: str
    """UTC, ISO 8601."""
    host: str
    job: str
    """As its scheduler calls it: SLURM's id, or of a local job the process that watches over it. Empty: it has none."""
    begins: Point
    before: End | None = None
    """How the attempt before this one ended; None: this is the first."""
    job_restarts: int | None = None
    """How often the scheduler had restarted the job by then; None if the scheduler does not count."""

    @property
    def at_s(self) -> float:
        """`at` in seconds since 1970; 0 if it is no time."""
        try:
            return datetime.fromisoformat(self.at).timestamp()
        except (ValueError, TypeError):
            return 0.0

    @property
    def lost_s(self) -> float:
        """Seconds of training before this attempt that it does again."""
        return max(0.0, self.before.elapsed_s - self.begins.elapsed_s) if self.before else 0.0

    @property
    def lost_batches(self) -> int:
        """The same in batches."""
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
    directory: RunDirectory, old: Record | None, saved: Saved | None, job: str, job_restarts: int | None = None
) -> Attempt:
    """Write down that training starts now.

    Args:
        directory: of the run.
        old: its record as the attempt before has left it; None: there was none.
        saved: what this one goes on from.
        job: as its scheduler calls it; empty if it has none.
        job_restarts: How often the scheduler has restarted the job; None if it does not count.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    begins = Point(saved.position.total_batches, saved.elapsed_s, saved.name) if saved else Point()
    attempt = Attempt(now, socket.gethostname(), job, begins, _end(directory, old), job_restarts)
    try:
        with open(directory.starts_file, "a") as file:
            file.write(json.dumps(asdict(attempt)) + "\n")
    except OSError as error:
        why = error.strerror
        log.warning("%s cannot be written (%s): this start is missing in reports.", directory.starts_file, why)
    return attempt


def _end(directory: RunDirectory, old: Record | None) -> End | None:
    if old is None:
        return None
    reached, last = progress.read(directory.progress_file), _last(directory)
    if last is not None and (reached is None or reached.at < last.at_s):  # it ended before its first boundary
        begins = last.begins
        return End(old.status, old.why, begins.total_batches, begins.elapsed_s, directory.record_file.stat().st_mtime)
    if reached is None:
        return End(old.status, old.why, 0, 0.0, directory.record_file.stat().st_mtime)
    return End(old.status, old.why, reached.total_batches, reached.elapsed_s, reached.at)


def _last(directory: RunDirectory) -> Attempt | None:
    """The attempt before this one, if it was written down."""
    try:
        found = read(directory)
    except OSError:
        return None
    return found[-1] if found else None


def read(directory: RunDirectory) -> list[Attempt]:
    """All attempts, the first one first; a line that a kill has cut off is left out.

    Raises:
        OSError: nobody has kept a record of them.
    """
    lines = directory.starts_file.read_text(errors="replace").splitlines()
    return [attempt for line in lines if (attempt := _parse(line)) is not None]


def _parse(line: str) -> Attempt | None:
    try:
        fields = json.loads(line)
        before = End(**fields["before"]) if fields["before"] else None
        return Attempt(**{**fields, "begins": Point(**fields["begins"]), "before": before})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
