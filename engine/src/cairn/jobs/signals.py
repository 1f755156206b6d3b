"""Remembers that the run was asked to stop: a handler sets a flag, nothing more; the run obeys at its next boundary.

Imports no torch: signals are caught before that is imported, which takes seconds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""By a terminal, by who ends a machine or a job, and by schedulers that say so before they do."""


class Interrupts:
    """Catches signals while it is entered (`with signals:`).

    While training runs, the first one is remembered, and only a second Ctrl-C stops at once. Before and after (imports,
    setup, the sanity check, a test) there is nothing to save, and the first one stops at once: as a KeyboardInterrupt,
    whichever signal it was. What comes while the run is already stopping is ignored, but for Ctrl-C.

    Attributes:
        received: the number of the signal that came first, 0 if none did.
        training: a boundary will come, at which the run can be saved.
        stopping: the run is being ended, and only Ctrl-C may disturb that.
        replaced: the handlers that were there before, by their signals.
    """

    def __init__(self) -> None:
        self.received = 0
        self.training = self.stopping = False
        self.previous_handlers: dict[int, Any] = {}
        self._owner = 0
        self._interrupted = False

    @property
    def name(self) -> str | None:
        """Of the signal that came first: `SIGTERM`; None if none did."""
        return signal.Signals(self.received).name if self.received else None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self.previous_handlers = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)
        self.previous_handlers = {}

    def reinstall(self) -> None:
        """Put the handlers in place again: somebody may have put his own before them."""
        for number in self.previous_handlers:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a DataLoader's worker has inherited the handler
            return
        first = not self.received
        self.received = self.received or int(number)
        if number == signal.SIGINT:
            if self._interrupted or not self.training:
                raise KeyboardInterrupt
            self._interrupted = True
            os.write(2, b"\nStopping after this batch, with a checkpoint. Ctrl-C again stops at once.\n")
        elif first and not self.training and not self.stopping:
            raise KeyboardInterrupt


class Interruption(SystemExit):
    """The run was stopped, is saved, and can go on.

    Attributes:
        reason: the name of the signal, or what else has stopped it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(exit_code(reason))
        self.reason = reason


def exit_code(reason: str) -> int:
    """As a shell tells that a signal has ended a process: 143 for `SIGTERM`; 75, "try again", for other reasons."""
    return 128 + int(signal.Signals[reason]) if reason in signal.Signals.__members__ else os.EX_TEMPFAIL


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore all stop signals meanwhile, in this process and in those that it starts."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
