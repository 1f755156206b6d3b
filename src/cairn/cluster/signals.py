"""Remembers that the run was asked to stop: a handler sets a flag, nothing more; the run obeys at its next boundary."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals(Callback):
    """Catches Ctrl-C and SIGTERM while it is entered (`with signals:`).

    While training runs, the first one is remembered, and a second Ctrl-C stops at once. Before and after (setup, the
    sanity check, a test) there is nothing to save, and the first one stops at once: as a KeyboardInterrupt, whichever
    signal it was.
    """

    def __init__(self) -> None:
        self.received = 0
        self._owner = 0
        self._training = self._interrupted = False
        self._before: dict[int, Any] = {}

    def requested(self) -> int:
        """The number of the signal that came first, 0 if none did."""
        return self.received

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = True
        for number in self._before:  # Lightning has put a handler of its own before ours
            signal.signal(number, self._handle)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._training = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a DataLoader's worker has inherited the handler
            return
        self.received = self.received or int(number)
        if not self._training or (number == signal.SIGINT and self._interrupted):
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            self._interrupted = True
            os.write(2, b"\nStopping after this batch, with a checkpoint. Ctrl-C again stops at once.\n")
