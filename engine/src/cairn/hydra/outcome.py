"""How one start of a run has ended, as one value that the record, the loggers and the exit code are derived from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cairn.errors import CairnError
from cairn.hydra.keys import in_config_words
from cairn.jobs.signals import exit_code
from cairn.lightning.agreement import TIME_LIMIT
from cairn.lightning.boundary import Stopped

Status = Literal["finished", "stopped", "failed", "tested", "left"]
"""`tested`: nothing was trained. `left`: train.py called `sys.exit`. Neither is recorded in `run.json`."""


@dataclass(frozen=True)
class Outcome:
    """How one start of a run has ended."""

    status: Status
    why: str = ""
    """What has stopped it (a signal, `max_time`, `job_time_limit`), or the error."""
    exit_code: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of everything that was logged in training and validation."""
    test: Mapping[str, float] | None = None
    result: Any = None
    """What train.py has returned, for a sweeper."""
    error: BaseException | None = None

    @property
    def interrupted_by(self) -> str:
        """The signal or the limit of the job that has ended the process early; empty if nothing did."""
        return self.why if self.status == "stopped" and self.why != TIME_LIMIT else ""


def outcome_of(error: BaseException, signal: str | None) -> Outcome:
    """Map an exception that has ended a run to its outcome.

    Args:
        error: What was raised.
        signal: The name of the first signal that this process has received.

    Returns:
        The outcome, with the exception in it.
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
    return Outcome("failed", describe(error), 1, error=error)


def is_for_users(error: BaseException | None) -> bool:
    """Is the message of this error a sentence that needs no traceback? Those of Lightning's own checks are, too."""
    return isinstance(error, CairnError | MisconfigurationException)


def describe(error: BaseException) -> str:
    """Return the message of an error, with its class if it is not one for users."""
    if isinstance(error, CairnError):
        return in_config_words(error)
    return str(error) if is_for_users(error) else f"{type(error).__name__}: {error}"
