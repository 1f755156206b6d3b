"""Queries SLURM for the state of jobs."""

from __future__ import annotations

import getpass
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

_TIMEOUT_S = 30.0
_TRIES = 4


class SlurmError(RuntimeError):
    """SLURM does not answer or refuses; the message holds its output."""


@dataclass(frozen=True)
class JobState:
    """State of a job, as the controller reports it."""

    state: str
    """RUNNING, PENDING, COMPLETING, TIMEOUT, ..."""
    restarts: int
    ends_at: float | None
    """End of its allocation in seconds since 1970; None if there is no limit or it is not known."""


def job_state(job_id: str) -> JobState:
    """Return the state of one job; retries while the controller is busy.

    Args:
        job_id: `12`, or `12_3` for one task of an array: `12` means all of its tasks.

    Raises:
        SlurmError: The controller does not answer, or the id matches no job or several.
    """
    return _parse(_ask(["scontrol", "--oneliner", "show", "job", job_id]))


def queued(user: str | None = None) -> Mapping[str, str]:
    """Return the states of a user's jobs that have not ended, by id: `12`, or `12_3` in an array.

    Raises:
        SlurmError: The controller does not answer.
    """
    found = _ask(["squeue", "--noheader", "--array", "--format=%i %T", f"--user={user or getpass.getuser()}"])
    lines = [line.split() for line in found.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def requeue(job_id: str) -> None:
    """Put a running job back into the queue; SLURM then ends its processes.

    Args:
        job_id: `12`, or `12_3` for one task of an array.

    Raises:
        SlurmError: The controller does not answer, or refuses.
    """
    _ask(["scontrol", "requeue", job_id])


def _ask(command: Sequence[str]) -> str:
    for left in reversed(range(_TRIES)):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S).stdout
        except FileNotFoundError as error:
            raise SlurmError(f"{command[0]} is not installed on this machine") from error
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            output = error.stderr or ""
            output = output.decode() if isinstance(output, bytes) else output
            if not left or "Invalid job id" in output:
                raise SlurmError(f"`{' '.join(command)}` failed: {output.strip() or error}") from error
            time.sleep(1)
    raise AssertionError("the last try returns or raises")


def _parse(text: str) -> JobState:
    if text.strip().count("\n"):
        names = re.findall(r"^JobId=(\d+)", text, re.MULTILINE)
        raise SlurmError(f"expected one job, got {len(names)} ({', '.join(names)})")
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    return JobState(fields.get("JobState", "UNKNOWN"), int(fields.get("Restarts", 0)), _time(fields.get("EndTime", "")))


def _time(text: str) -> float | None:
    """SLURM prints local time, or `Unknown`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
