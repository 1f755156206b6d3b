"""Training time of a run over all attempts, and the duration of the current batch."""

from __future__ import annotations

import math
import time


class Clock:
    """Measures the training time of a run and the duration of the current batch.

    Attributes:
        busy: True if a save was being written when the current batch started.
        validated: True if a validation has run since the current batch started.
    """

    def __init__(self) -> None:
        self.busy = self.validated = False
        self._before_s = 0.0
        self._started: float | None = None
        self._batch_began = 0.0

    @property
    def before_s(self) -> float:
        """Training time of the earlier attempts, in seconds; of all of them while stopped."""
        return self._before_s

    @property
    def elapsed_s(self) -> float:
        """Training time of the run until now, in seconds."""
        return self._before_s + (0.0 if self._started is None else time.monotonic() - self._started)

    def elapsed_s_at(self, moment: float) -> float:
        """Training time of the run at `moment`, a value of `time.monotonic()`; constant while stopped."""
        return self._before_s + (0.0 if self._started is None else moment - self._started)

    def continue_from(self, elapsed_s: float) -> None:
        """Continue with the training time of earlier attempts."""
        self._before_s = elapsed_s

    def start(self) -> None:
        """Start measuring, when training starts."""
        self._started = self._batch_began = time.monotonic()

    def stop(self) -> None:
        """Stop measuring, when training ends."""
        self._before_s, self._started = self.elapsed_s, None

    def begin_batch(self, busy: bool) -> None:
        """Start a batch; the time since the end of the previous one is not part of any batch."""
        self.busy, self.validated = busy, False
        self._batch_began = time.monotonic()

    def reaches(self, elapsed_s: float) -> float:
        """Return when the training time of the run reaches `elapsed_s`, as a value of `time.monotonic()`."""
        return math.inf if self._started is None else self._started + (elapsed_s - self._before_s)

    def end_batch(self, now: float) -> float:
        """End the current batch at `now`, a value of `time.monotonic()`, and start the next one; return its duration.

        No save is being written, and no validation has run.
        """
        passed_s, self._batch_began = now - self._batch_began, now
        return passed_s

    def exclude(self, seconds: float) -> None:
        """Exclude time from the current batch that is already counted as part of a save."""
        self._batch_began += seconds

    def batch_s(self) -> float:
        """Duration of the current batch until now, in seconds."""
        return time.monotonic() - self._batch_began
