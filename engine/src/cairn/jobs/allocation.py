"""Which job of a scheduler this process is, who starts it again, and when it has to be over."""

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
"""A batch script that requeues its job itself says so by this variable: `script`."""


@dataclass(frozen=True)
class Allocation:
    """What a scheduler has given to this process; outside of any, all fields are as they are here."""

    scheduler: Literal["slurm", "submitit_local", ""] = ""
    job_id: str = ""
    """Its id: `12`, or `12_3` in an array, where SLURM_JOB_ID would not do: that of its last job means all of them."""
    restarts: int = 0
    requeued_by: Literal["submitit", "script", ""] = ""
    ends_at: float | None = None
    """In seconds since 1970; None: no limit, or not known."""

    def __str__(self) -> str:
        """What a user should know at the start."""
        if not self.scheduler:
            return ""
        what = f"SLURM job {self.job_id}" if self.scheduler == "slurm" else f"Local job {self.job_id}"
        again = f" (restart {self.restarts})" if self.restarts else ""
        until = f" until {datetime.fromtimestamp(self.ends_at):%Y-%m-%d %H:%M:%S}" if self.ends_at else ""
        by = {"submitit": "submitit requeues it", "script": "its batch script requeues it"}.get(self.requeued_by)
        then = f"and {by}" if by else "and nobody requeues it: the same command goes on"
        return f"{what}{again}{until}: at a signal, or shortly before its end, it is saved, {then}."


def current(environ: Mapping[str, str] = os.environ) -> Allocation:
    """The allocation of this process, as its environment and the scheduler tell."""
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
    if (told := environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(told)
    try:
        return slurm.job_state(job_id).ends_at
    except slurm.SlurmError as error:
        log.warning("When this job has to be over is not known (%s): it stops only when a signal says so.", error)
        return None


class Deadline:
    """Decides that a run must stop, so that its last save is whole before its allocation ends.

    Args:
        ends_at: in seconds since 1970; None: never.
        spare_s: what is left for everything but training and the save: loggers, the end of the process.
        now: the clock.
    """

    def __init__(self, ends_at: float | None, spare_s: float = 15.0, now: Callable[[], float] = time.time) -> None:
        self.ends_at, self.spare_s, self.now = ends_at, spare_s, now
        self._asked_at: float | None = None
        self._longest_s = 0.0
        """Between two questions: a batch, and perhaps a validation."""

    def is_near(self, save_s: float) -> bool:
        """Would the run be saved too late if it was not now? Asked at each boundary.

        Args:
            save_s: what a save takes until it is whole, as far as it is known.
        """
        now = self.now()
        self._longest_s = max(self._longest_s, now - (self._asked_at or now))
        self._asked_at = now
        needed_s = self.spare_s + 1.2 * self._longest_s + 2 * save_s  # both vary
        return self.ends_at is not None and now + needed_s >= self.ends_at
