"""Shows how much of a transfer is done: a bar on a terminal, and a line in the log from time to time elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType

from cairn.units import format_bytes, format_duration

log = logging.getLogger(__name__)

_EVERY_S = 10.0
"""Time between two lines in the log, in seconds."""
_REDRAW_S = 0.1
_WIDTH = 30


class Bar:
    """A transfer of a known size. `advance` may be called from several threads.

    Args:
        what: What happens, such as `Downloading from s3://bucket/run`.
        num_bytes: Size of the transfer.
    """

    def __init__(self, what: str, num_bytes: int) -> None:
        self._what, self._num_bytes = what, num_bytes
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._is_terminal = sys.stderr.isatty()
        self._started_s = self._shown_s = time.monotonic()

    def advance(self, num_bytes: int) -> None:
        """Count bytes that are transferred."""
        with self._lock:
            self._done_bytes += num_bytes
            now = time.monotonic()
            if now - self._shown_s < (_REDRAW_S if self._is_terminal else _EVERY_S):
                return
            self._shown_s = now
            if self._is_terminal:
                self._draw()
            else:
                log.info("%s: %s.", self._what, self._state())

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_terminal and self._done_bytes:
            self._draw()
            print(file=sys.stderr)

    def _draw(self) -> None:
        filled = round(_WIDTH * min(1.0, self._done_bytes / max(1, self._num_bytes)))
        bar = "#" * filled + "." * (_WIDTH - filled)
        print(f"\r{self._what} [{bar}] {self._state()}   ", end="", file=sys.stderr, flush=True)

    def _state(self) -> str:
        passed_s = time.monotonic() - self._started_s
        left_s = passed_s * max(0, self._num_bytes - self._done_bytes) / max(1, self._done_bytes)
        done = f"{format_bytes(self._done_bytes)} of {format_bytes(self._num_bytes)}"
        return f"{done}, {format_duration(left_s, digits=2)} left"
