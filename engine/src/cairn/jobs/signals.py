"""Remembers that the run was asked to stop: a handler sets a flag, nothing more; the run obeys at its next boundary.

Imports no torch: signals are caught before that is imported, which takes seconds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""By a terminal, by who ends a machine or a job, and by schedulers that say so before they do."""


class StopSignals:
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
        self.replaced: dict[int, Any] = {}
        self._owner = 0
        self._interrupted = False

    @property
    def name(self) -> str | None:
        """Of the signal that came first: `SIGTERM`; None if none did."""
        return signal.Signals(self.received).name if self.received else None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self.replaced = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced = {}

    def take_back(self) -> None:
        """Put the handlers in place again: somebody may have put his own before them."""
        for number in self.replaced:
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


class Leave(SystemExit):
    """The run was stopped, is saved, and can go on.

    Attributes:
        why: the name of the signal, or what else has stopped it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(exit_code(why))
        self.why = why


def exit_code(why: str) -> int:
    """As a shell tells that a signal has ended a process: 143 for `SIGTERM`; 75, "try again", for other reasons."""
    return 128 + int(signal.Signals[why]) if why in signal.Signals.__members__ else os.EX_TEMPFAIL


def ignored(action: Callable[[], None]) -> None:
    """Do something that must not be interrupted by any of these signals, nor a process that it starts."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        action()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
