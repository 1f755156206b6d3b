"""Status of the jobs of a sweep, from their run directories and from the scheduler that runs them. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.account import progress
from cairn.account.progress import Progress
from cairn.errors import CairnError, ResumeError
from cairn.jobs import slurm
from cairn.run import attempts, goodput
from cairn.run.directory import EVALUATION_FILE, RunDirectory, RunRecord, below
from cairn.run.goodput import Last, TimeSpent
from cairn.run.ledger import Ledger, SubmittedJob, states
from cairn.store.catalog import Catalog
from cairn.types import Saved

SILENT_S = 600.0
"""A run without a scheduler counts as dead after this long without a sign of life."""
_NOT_QUEUED = ""
"""State of a job that the scheduler does not have any more."""
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")
_MARKS = ("run.json", "*/run.json", EVALUATION_FILE, f"*/{EVALUATION_FILE}")
"""Files of a run, and of a test that no run owns."""


@dataclass(frozen=True)
class JobStatus:
    """Status of one job of a sweep."""

    name: str
    """Its run directory, relative to the sweep."""
    state: str
    """finished, failed, running, waiting, paused (at `pause_at`), stopped (saved, and not queued), hung (ended by the
    watchdog, and not queued), dead (killed, and not queued), tested (a test that no run owns), unknown (it has not
    begun, and its scheduler does not answer; or a mirror is silent about it); or another state of the scheduler, in
    lower case."""
    job: str
    """Id of the scheduler's job; empty without one."""
    progress: Progress | None
    share: float | None
    """Share of the training that is done; None if its length is not known."""
    last: Saved | None
    """Newest checkpoint."""
    num_starts: int
    num_lost_batches: int
    """Batches that were repeated after kills."""
    why: str
    """What stopped it, or the error that ended it."""
    spent: TimeSpent | None = None
    """What its time was spent on, over all attempts; None if they are not recorded."""

    @property
    def num_restarts(self) -> int:
        """Number of attempts after the first."""
        return max(0, self.num_starts - 1)


def look(sweep: Path) -> tuple[list[JobStatus], str]:
    """Look up all jobs of a sweep.

    Args:
        sweep: Directory of a sweep, or of a single run.

    Returns:
        The jobs by their names, and why the scheduler could not be asked; empty if it answered.

    Raises:
        ResumeError: There are no runs in the directory.
    """
    submitted: dict[str, list[SubmittedJob]] = {}
    for job in Ledger(sweep).entries():
        submitted.setdefault(job.directory, []).append(job)
    runs = [run for pattern in _MARKS for run in below(sweep.absolute(), pattern)]
    names = sorted({run.path.relative_to(sweep.absolute()).as_posix() for run in runs} | set(submitted))
    if not names:
        raise ResumeError(f"{sweep} holds no runs: name the directory of a sweep.")
    try:
        alive, trouble = states(jobs[-1] for jobs in submitted.values()), ""
    except slurm.SlurmError as error:
        alive, trouble = {}, str(error)
    return [_look(sweep, name, submitted.get(name, ()), None if trouble else alive) for name in names], trouble


def _look(sweep: Path, name: str, submitted: Sequence[SubmittedJob], alive: Mapping[str, str] | None) -> JobStatus:
    """Return the status of one run.

    Args:
        sweep: Directory of the sweep.
        name: Run directory, relative to the sweep.
        submitted: Jobs that were submitted for this run, the last one last.
        alive: States of the jobs that have not ended, by id; None if the scheduler does not answer.
    """
    newest = submitted[-1] if submitted else None
    run = RunDirectory(sweep / name)
    reached = progress.read(run.progress_file)
    record, saved, config = _read(run)
    tried = known_attempts(run)
    queued = alive.get(newest.job, _NOT_QUEUED) if newest and alive is not None else None
    if queued == _NOT_QUEUED and tried and tried[-1].job not in {job.job for job in submitted}:
        queued = None  # its last attempt was started by other means: the scheduler does not know it
    is_tested = record is None and (run.path / EVALUATION_FILE).is_file()
    is_unknown = newest and alive is None and record is None and not is_tested
    state = "unknown" if is_unknown else _state(record, queued, _seen_s(reached, tried), is_tested)
    return JobStatus(
        name=name,
        state=state,
        job=newest.job if newest else "",
        progress=reached,
        share=share(reached, config),
        last=saved,
        num_starts=attempts.num_starts(tried, {job.job for job in submitted}),
        num_lost_batches=sum(item.lost_batches for item in tried),
        why=record.why if record else "",
        spent=goodput.spent(tried, last_of(run, record, state, reached, saved)),
    )


def last_of(
    run: RunDirectory, record: RunRecord | None, state: str, reached: Progress | None, saved: Saved | None
) -> Last:
    """Return what is known of the newest attempt of a run.

    Args:
        run: Its directory.
        record: Its record.
        state: Its state, as in `JobStatus`.
        reached: Its progress.
        saved: Its newest checkpoint.
    """
    ended = None
    if record is not None and record.status != "running":
        with suppress(OSError):
            ended = run.record_file.stat().st_mtime
    seen, elapsed_s = (reached.at, reached.elapsed_s) if reached else (0.0, 0.0)
    return Last(state, seen, ended, elapsed_s, saved, time.time())


def _read(run: RunDirectory) -> tuple[RunRecord | None, Saved | None, Mapping[str, Any]]:
    # A run may have died before it began, or while a file of it was written.
    try:
        record = run.record()
        config = run.config("checkpoint", "paths", "trainer") if record else {}
        saved = Catalog(run.checkpoints(config)).newest() if record else None
    except CairnError:
        return None, None, {}
    return record, saved, config


def known_attempts(run: RunDirectory) -> list[attempts.Attempt]:
    """Return the attempts of a run; none if their file is missing or cannot be read."""
    try:
        return attempts.read(run)
    except OSError:
        return []


def _state(record: RunRecord | None, queued: str | None, seen_s: float, is_tested: bool = False) -> str:
    """Return the state of a job; `queued` is the scheduler's answer, None if it cannot say."""
    if queued not in (None, _NOT_QUEUED):
        if queued == "RUNNING":
            return "running" if record is None or record.status != "finished" else "finished"
        return "waiting" if queued in _WAITING else queued.lower()
    if record is None:
        return "tested" if is_tested else "failed"  # before it began, or its record is damaged
    if record.status != "running":
        return record.status
    if queued == _NOT_QUEUED:
        return "dead"
    return "running" if time.time() - seen_s < SILENT_S else "dead"


def _seen_s(reached: Progress | None, tried: Sequence[attempts.Attempt]) -> float:
    """Return the last sign of life, in seconds since 1970. An attempt that has just begun has no progress yet."""
    return max(reached.at if reached else 0.0, tried[-1].at_s if tried else 0.0)


def from_files(record: RunRecord | None, reached: Progress | None, tried: Sequence[attempts.Attempt]) -> str:
    """Return the state of a run from its files alone, without its scheduler."""
    return _state(record, None, _seen_s(reached, tried))


def share(reached: Progress | None, config: Mapping[str, Any]) -> float | None:
    """Return the share of the training that is done; None if its length is not known.

    Args:
        reached: Its progress.
        config: Configuration of the run, with `trainer`.
    """
    trainer = config.get("trainer")
    if reached is None or not isinstance(trainer, Mapping):
        return None
    steps, epochs = (value if type(value := trainer.get(key)) is int else -1 for key in ("max_steps", "max_epochs"))
    shares = [reached.step / steps] if steps > 0 else []
    if epochs > 0 and reached.batches_per_epoch:
        shares.append(reached.total_batches / (epochs * reached.batches_per_epoch))
    return min(1.0, max(shares)) if shares else None
