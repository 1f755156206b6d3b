"""TIME: how long a run has trained, over all its restarts, and how long its present batch has taken."""

from __future__ import annotations

import time


class Clock:
    """Runs while training does.

    Attributes:
        busy: a save was under way when the present batch began.
        validated: there was a validation since it began.
    """

    def __init__(self) -> None:
        self.busy = self.validated = False
        self._before_s = 0.0
        self._started: float | None = None
        self._batch_began = 0.0

    @property
    def elapsed_s(self) -> float:
        """Training time of the run up to now."""
        return self.elapsed_s_at(time.monotonic())

    def elapsed_s_at(self, moment: float) -> float:
        """Training time of the run at a moment of `time.monotonic()`; when it stands still, up to then."""
        return self._before_s + (0.0 if self._started is None else moment - self._started)

    def go_on(self, elapsed_s: float) -> None:
        """The run has trained for so long before."""
        self._before_s = elapsed_s

    def start(self) -> None:
        """Training begins."""
        self._started = self._batch_began = time.monotonic()

    def stop(self) -> None:
        """Training ends."""
        self._before_s, self._started = self.elapsed_s, None

    def begin_batch(self, busy: bool) -> None:
        """A batch begins; what comes before belongs to none."""
        self.busy, self.validated = busy, False
        self._batch_began = time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """So much of the present batch was spent on a save, and is counted there."""
        self._batch_began += seconds

    def batch_s(self) -> float:
        """How long the present one has taken so far."""
        return time.monotonic() - self._batch_began
