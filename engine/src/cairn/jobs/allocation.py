"""The scheduler's job that this process runs in: its id, what requeues it, and when its time ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cairn.jobs import slurm

log = logging.getLogger(__name__)

REQUEUED_BY = "CAIRN_REQUEUED_BY"
"""A batch script that requeues its own job sets this variable to `script`."""


@dataclass(frozen=True)
class Allocation:
    """What a scheduler has allocated to this process; without a scheduler, all fields have their defaults."""

    scheduler: Literal["slurm", "submitit_local", ""] = ""
    job_id: str = ""
    """`12`, or `12_3` in an array. SLURM_JOB_ID is not used there: the last task has the id of the array."""
    restarts: int | None = None
    """How often the scheduler has restarted the job; None if it does not count."""
    requeued_by: Literal["submitit", "script", ""] = ""
    ends_at: float | None = None
    """Seconds since 1970; None if there is no limit or it is not known."""

    def __str__(self) -> str:
        """A sentence for the log at the start; empty without a scheduler."""
        if not self.scheduler:
            return ""
        what = f"SLURM job {self.job_id}" if self.scheduler == "slurm" else f"Local job {self.job_id}"
        again = f" (restart {self.restarts})" if self.restarts else ""
        until = f" until {datetime.fromtimestamp(self.ends_at):%Y-%m-%d %H:%M:%S}" if self.ends_at else ""
        by = {"submitit": "submitit requeues it", "script": "its batch script requeues it"}.get(self.requeued_by)
        then = f"Then {by}." if by else "It is not requeued: run the same command again to resume."
        return f"{what}{again}{until}: at a signal, or shortly before its time ends, the run saves and stops. {then}"


def current(environ: Mapping[str, str] = os.environ) -> Allocation:
    """Return the allocation of this process, from its environment and from the scheduler."""
    by_submitit = environ.get("SUBMITIT_EXECUTOR", "")
    if by_submitit == "local" and "SUBMITIT_LOCAL_JOB_ID" in environ:
        return Allocation("submitit_local", job_id=environ["SUBMITIT_LOCAL_JOB_ID"], requeued_by="submitit")
    if "SLURM_JOB_ID" not in environ or environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return Allocation()
    array = environ.get("SLURM_ARRAY_JOB_ID")
    job_id = f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]
    script = environ.get(REQUEUED_BY) == "script"
    return Allocation(
        "slurm",
        job_id=job_id,
        restarts=int(environ.get("SLURM_RESTART_COUNT", 0)),
        requeued_by="submitit" if by_submitit == "slurm" else "script" if script else "",
        ends_at=_ends_at(job_id, environ),
    )


def _ends_at(job_id: str, environ: Mapping[str, str]) -> float | None:
    if (ends_at := environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(ends_at)
    try:
        return slurm.job_state(job_id).ends_at
    except slurm.SlurmError as error:
        log.warning("The time limit of this job is not known (%s): the run stops only at a signal.", error)
        return None


class Deadline:
    """Decides when a run must stop so that its last save is committed before its allocation ends.

    Args:
        ends_at: Seconds since 1970; None if there is no limit.
        spare_s: Seconds to leave for everything except training and the save: loggers, the end of the process.
        now: The clock.
    """

    def __init__(self, ends_at: float | None, spare_s: float = 15.0, now: Callable[[], float] = time.time) -> None:
        self.ends_at, self.spare_s, self.now = ends_at, spare_s, now
        self._asked_at: float | None = None
        self._longest_s = 0.0
        """Longest time between two calls: a batch, and perhaps a validation."""

    def is_near(self, save_s: float) -> bool:
        """Return True if a save at the next boundary would come too late; call this at each boundary.

        Args:
            save_s: Expected seconds from the start of a save to its commit.
        """
        now = self.now()
        self._longest_s = max(self._longest_s, now - (self._asked_at or now))
        self._asked_at = now
        needed_s = self.spare_s + 1.2 * self._longest_s + 2 * save_s  # margins, since both vary
        return self.ends_at is not None and now + needed_s >= self.ends_at
