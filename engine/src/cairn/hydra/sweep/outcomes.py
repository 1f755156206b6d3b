"""Wait for the jobs of a sweep, and find out how each of them ended.

A job may be requeued, and its result may arrive late on a network file system. So a result counts only after the
scheduler reports the end of the job, and a missing result only some time later.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

from cairn.errors import CairnError, first_line
from cairn.hydra.sweep import result_file
from cairn.hydra.sweep.sweep_job import SweepJob
from cairn.jobs import slurm
from cairn.run import attempts
from cairn.run.ledger import SubmittedJob, states

log = logging.getLogger(__name__)

_FOR_USERS = re.compile(rf"^{re.escape(CairnError.__module__)}\.\w+: ")
POLL_S, SLOWEST_POLL_S = 2.0, 30.0
LATE_S = 20.0
"""How long to wait for a missing result after the end of a job, in seconds."""


class JobFailed(CompactHydraException):
    """A job of a sweep has failed; the others are not affected."""


class Outcomes:
    """Results of the jobs of a sweep.

    Args:
        submitit_folder: Folder of submitit's results; a ledger entry that names another folder has precedence.
    """

    def __init__(self, submitit_folder: str) -> None:
        self._folder = submitit_folder

    def collect(self, jobs: Mapping[SweepJob, SubmittedJob | None]) -> dict[int, JobReturn]:
        """Wait for all jobs, and log how each ended as soon as it is known.

        Args:
            jobs: The jobs with their ledger entries; None: the ledger does not contain the job.

        Returns:
            The results by the numbers of the jobs.
        """
        found: dict[int, JobReturn] = {}
        over_since: dict[int, float] = {}
        began = time.monotonic()
        while waiting := {job: entry for job, entry in jobs.items() if job.number not in found}:
            entries = [entry for entry in waiting.values() if entry is not None]
            alive = _alive(entries)
            for job, entry in waiting.items():
                if (result := self._outcome(job, entry, alive, over_since)) is not None:
                    found[job.number] = result
            if len(found) < len(jobs):
                # A SLURM controller serves many users: ask it less often in a long wait.
                is_local = all(entry.scheduler == "local" for entry in entries)
                waited_s = 0.0 if is_local else time.monotonic() - began
                time.sleep(min(SLOWEST_POLL_S, max(POLL_S, waited_s / 20)))
        return found

    def _outcome(
        self,
        job: SweepJob,
        entry: SubmittedJob | None,
        alive: Mapping[str, str] | None,
        over_since: dict[int, float],
    ) -> JobReturn | None:
        """Return the result of a job; None while it is alive or the scheduler does not answer.

        Args:
            job: The job.
            entry: Its ledger entry.
            alive: States of the jobs that are alive; None: the scheduler does not answer.
            over_since: When each job was first seen to be over; updated here.
        """
        if entry is None:
            return self._failed(job, None, "the ledger of the sweep has no job id for it")
        if alive is None or entry.job in alive:
            # A result on disk may be that of an earlier attempt.
            over_since.pop(job.number, None)
            return None
        now = time.monotonic()
        return self._result(job, entry, is_late=now - over_since.setdefault(job.number, now) > LATE_S)

    def _result(self, job: SweepJob, entry: SubmittedJob, is_late: bool) -> JobReturn | None:
        """Return the result of a job that is over; None if its result may still arrive."""
        for folder in (job.run.path, self.paths(entry).folder) if is_late else ():
            _refresh(folder)
        outcome, value = _read_result(self.paths(entry).result_pickle)
        if outcome == "success":
            log.info("  %s: finished", job)
            if value is None:  # nothing, or an object such as a number of numpy: the run has recorded it as a number
                return success(job)
            return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=value)
        if outcome == "error":
            return self._failed(job, entry, _own_reason(job, entry) or _last_line(value))
        if not is_late:
            return None
        if job.is_finished:
            log.info("  %s: finished", job)
            return success(job)
        record = job.record
        state = f"{record.status} {record.why}".strip() if record else "not started (or its record is damaged)"
        return self._failed(job, entry, f"it ended without a result, and its run is {state}")

    def paths(self, entry: SubmittedJob) -> Any:
        """Return submitit's paths for a job, in the folder that was set when it was submitted."""
        from submitit.core.utils import JobPaths

        return JobPaths(entry.folder or self._folder, entry.job, 0)

    def _failed(self, job: SweepJob, entry: SubmittedJob | None, why: str) -> JobReturn:
        text = f"{job} failed: {why.rstrip('.')}. See {self._log_of(job, entry)}"
        log.error("  %s", text)
        return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=JobFailed(text))

    def _log_of(self, job: SweepJob, entry: SubmittedJob | None) -> Path:
        """Return the log of the run or, if it is missing or empty, the scheduler's log of the job."""
        own = job.run.path / "train.log"
        return own if entry is None or (own.is_file() and own.stat().st_size) else Path(self.paths(entry).stdout)


def success(job: SweepJob) -> JobReturn:
    """Return the result of a job whose run is finished."""
    record = job.record
    return JobReturn(
        overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=record.result if record else None
    )


def _own_reason(job: SweepJob, entry: SubmittedJob) -> str:
    """Return the recorded reason of a failure; empty if the run did not fail, or its last attempt was another job."""
    record = job.record
    try:
        is_its_own = attempts.read(job.run)[-1].job == entry.job
    except (OSError, IndexError):
        is_its_own = False
    return record.why.partition("\n")[0] if is_its_own and record and record.status == "failed" else ""


def _last_line(trace: str) -> str:
    """Return the message that ends a traceback; one for users is a sentence, and needs no class."""
    return _FOR_USERS.sub("", (trace.strip() or "it raised an error").splitlines()[-1])


def _read_result(path: Path) -> tuple[str, Any]:
    """Return `success` or `error`, and a value; ("", None) without a file that can be read."""
    if not path.is_file():
        return "", None
    try:
        return result_file.read(path)
    except (OSError, ValueError) as error:
        log.warning("Could not read %s (%s). Using the record of the run instead.", path, first_line(error))
        return "", None


def _refresh(folder: Path) -> None:
    """Make a network file system read the contents of a folder again."""
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)


def _alive(entries: Sequence[SubmittedJob]) -> Mapping[str, str] | None:
    """Return the jobs that are alive, with their states; None if the scheduler does not answer."""
    try:
        return states(entries)
    except slurm.SlurmError as error:
        log.warning("%s. Asking again.", error)
        return None
