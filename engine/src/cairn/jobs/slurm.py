"""Asks SLURM what it knows of jobs."""

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
    """SLURM does not answer, or refuses; says what it said."""


@dataclass(frozen=True)
class JobState:
    """What the controller says of a job."""

    state: str
    """RUNNING, PENDING, COMPLETING, TIMEOUT, ..."""
    restarts: int
    ends_at: float | None
    """When its allocation ends, in seconds since 1970; None: no limit, or not known."""


def job_state(job_id: str) -> JobState:
    """Ask about one job; a controller that is busy is asked again.

    Args:
        job_id: `12`; for a job of an array `12_3`, since `12` is all of them.

    Raises:
        SlurmError: it does not answer, knows no such job, or knows several.
    """
    return _parse(_ask(["scontrol", "--oneliner", "show", "job", job_id]))


def queued(user: str | None = None) -> Mapping[str, str]:
    """The states of all jobs of a user that have not ended, by their ids: `12`, or `12_3` in an array.

    Raises:
        SlurmError: the controller does not answer.
    """
    found = _ask(["squeue", "--noheader", "--array", "--format=%i %T", f"--user={user or getpass.getuser()}"])
    lines = [line.split() for line in found.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def _ask(command: Sequence[str]) -> str:
    for left in reversed(range(_TRIES)):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S).stdout
        except FileNotFoundError as error:
            raise SlurmError(f"{command[0]} is not installed here") from error
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (error.stderr or b"").decode() if isinstance(error.stderr, bytes) else error.stderr or ""
            if not left or "Invalid job id" in said:
                raise SlurmError(f"`{' '.join(command)}` failed: {said.strip() or error}") from error
            time.sleep(1)
    raise AssertionError("the last try returns or raises")


def _parse(text: str) -> JobState:
    if text.strip().count("\n"):
        names = re.findall(r"^JobId=(\d+)", text, re.MULTILINE)
        raise SlurmError(f"it was asked about one job and told of {len(names)} ({', '.join(names)})")
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    return JobState(fields.get("JobState", "UNKNOWN"), int(fields.get("Restarts", 0)), _time(fields.get("EndTime", "")))


def _time(text: str) -> float | None:
    """SLURM tells local time, and `Unknown`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
