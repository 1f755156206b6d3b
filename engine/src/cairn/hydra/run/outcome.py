"""Outcome of one start of a run: the value from which the record, the loggers and the exit code are derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cairn.data import workers
from cairn.errors import CairnError, DataError
from cairn.hydra.parse.keys import in_config_words
from cairn.jobs.signals import exit_code
from cairn.lightning.agreement import TIME_LIMIT
from cairn.lightning.loops.calls import Stopped

Status = Literal["finished", "paused", "stopped", "failed", "tested", "left"]
"""`tested`: nothing was trained. `left`: train.py called `sys.exit`. Neither is recorded in `run.json`."""


@dataclass(frozen=True)
class Outcome:
    """How one start of a run ended."""

    status: Status
    why: str = ""
    """Reason for the stop (a signal, `max_time`, `job_time_limit`), where it paused, or the error message."""
    exit_code: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Last value of each metric that was logged in training and validation."""
    test: Mapping[str, float] | None = None
    result: Any = None
    """Return value of train.py, for a sweeper."""
    error: BaseException | None = None

    @property
    def interrupted_by(self) -> str:
        """Signal or job time limit that ended the process early; empty without one."""
        return self.why if self.status == "stopped" and self.why != TIME_LIMIT else ""


def outcome_of(error: BaseException, signal: str | None) -> Outcome:
    """Return the outcome of a run that ended with an exception.

    Args:
        error: The exception.
        signal: Name of the first signal that this process received; None without one.

    Returns:
        The outcome, which holds the exception.
    """
    if isinstance(error, Stopped):
        return Outcome("stopped", error.reason, exit_code(error.reason), error=error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        # Lightning turns a KeyboardInterrupt into a SystemExit, and the handlers raise one for every signal.
        if signal is not None:
            return Outcome("stopped", signal, exit_code(signal), error=error)
        return Outcome("left", exit_code=1, error=error)
    if signal not in (None, "SIGINT") and isinstance(error, Exception):
        # SIGTERM to a whole process group ends the data workers first: the error is a consequence of the signal.
        return Outcome("stopped", signal, exit_code(signal), error=error)
    if why := workers.why_killed(error):
        killed = DataError(why)
        killed.__cause__ = error
        error = killed
    return Outcome("failed", describe(error), 1, error=error)


def is_for_users(error: BaseException | None) -> bool:
    """Return whether an error is user-facing and needs no traceback, such as those of Lightning's own checks."""
    return isinstance(error, CairnError | MisconfigurationException)


def describe(error: BaseException) -> str:
    """Return the message of an error, with its class unless the error is user-facing."""
    if isinstance(error, CairnError):
        return in_config_words(error)
    return str(error) if is_for_users(error) else f"{type(error).__name__}: {error}"
