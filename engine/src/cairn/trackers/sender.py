"""Sends the rows of a journal to a tracker, on a thread of its own: training waits neither for a server nor for a disk.

    training    log_metrics -> journal (a file) -> wake
    thread      journal -> Store, row by row; after an error, first find out which rows are there

The journal is the queue: a server that is down for a day takes no memory, and a kill loses no row that belongs to a
checkpoint. When a resume cuts the journal, the rows that were cut are taken back, or counted as sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from cairn.trackers.lines import Lines, Row, read
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.thread import WakingThread

_MOST_ROWS = 500
"""Rows in one request."""
_MOST_REFUSED = 3
"""Attempts to store a configuration that a tracker refuses, while it accepts rows."""
_PACE_S = 1.0
"""Time in which rows are collected for a request. Requests take Python's lock, which training needs, too."""
_RETRY_S, _RETRY_MOST_S = 5.0, 300.0
_ROWS, _FLUSH, _END = "rows", "flush", "end"
T = TypeVar("T")


class Store(Protocol):
    """A run in a tracker. Its methods are called on one thread, and may raise anything."""

    def connect(self) -> None:
        """Find the run, or create it. Called before everything else, and again after an error."""
        ...

    def match(self, rows: Sequence[Row], names: Collection[str]) -> list[Row]:
        """Compare what is there with the rows of the journal, and remove what is not in it, if that is possible.

        Args:
            rows: All rows of the journal.
            names: Names that the journal has had, also in rows that a resume has cut.

        Returns:
            The rows, or the parts of them, that are missing there.
        """
        ...

    def send(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        ...

    def configure(self, config: Mapping[str, Any]) -> None:
        """Store the configuration of the run."""
        ...

    def end(self, status: str) -> None:
        """Record how the run has ended: `finished`, `paused`, `failed` or `stopped`."""
        ...


class Sender:
    """Keeps a tracker up to date with a journal.

    Args:
        store: The run in the tracker.
        journal: Its rows. It is cut by `rewind` only.
        errors: Logs what goes wrong.
        describe: Returns an error as text, without credentials.
    """

    def __init__(
        self, store: Store, journal: Lines, errors: ErrorsOnce, describe: Callable[[BaseException], str]
    ) -> None:
        self._store, self._journal, self._errors, self._describe = store, journal, errors, describe
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._names: set[str] = set()
        self._offset, self._cuts, self._is_matched = 0, 0, False
        self._config: Mapping[str, Any] | None = None
        self._num_refused = 0
        self._status = ""
        self._num_asked = self._num_answered = 0
        self._is_done = True
        self._thread: WakingThread | None = None

    def rewind(self, cut: Callable[[], T]) -> T:
        """Cut the journal. Afterwards, the tracker gets what it lacks and loses what was cut.

        Args:
            cut: Cuts it.

        Returns:
            What `cut` returns.
        """
        with self._lock:
            for row in read(self._journal.path):
                self._names.update(row)
            self._offset, self._cuts, self._is_matched = 0, self._cuts + 1, False
            return cut()

    def wake(self) -> None:
        """There are new rows. Returns at once."""
        self._wake(_ROWS)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Store the configuration of the run, when the tracker is reached.

        Args:
            config: Nested mappings of plain values.
        """
        with self._lock:
            self._config = {**(self._config or {}), **config}

    def flush(self, limit_s: float, status: str = "") -> bool:
        """Send what is left, and wait for that.

        Args:
            limit_s: Maximum time to wait, in seconds.
            status: How the run has ended; empty: it goes on.

        Returns:
            Whether the tracker has everything.
        """
        with self._lock:
            self._num_asked += 1
            number, self._status = self._num_asked, status or self._status
        self._wake(_FLUSH)
        with self._changed:
            return self._changed.wait_for(lambda: self._num_answered >= number, limit_s) and self._is_done

    def end(self, limit_s: float, status: str) -> bool:
        """Send what is left, end the run in the tracker, and stop the thread; see `flush`."""
        done = self.flush(limit_s, status)
        self._wake(_END)
        if not done:
            self._errors.silent = True
        return done

    def _wake(self, why: str) -> None:
        if self._thread is None:
            self._thread = WakingThread("tracker-rows", self._work)
            self._thread.start()
        self._thread.wake(why)

    def _work(self, thread: WakingThread) -> None:
        wait_s: float | None = None
        while _END not in _next(thread, wait_s):
            with self._lock:
                number = self._num_asked
            done = self._attempt()
            wait_s = None if done else min(2 * (wait_s or _RETRY_S / 2), _RETRY_MOST_S)
            with self._changed:
                self._num_answered, self._is_done = number, done
                self._changed.notify_all()

    def _attempt(self) -> bool:
        try:
            self._store.connect()
            refused = self._send_config()
            while not self._send_rows():
                pass
            if refused:  # and the rows were not, so that the tracker was reached
                self._num_refused += 1
                self._errors.log("configuration", f"could not store the configuration of the run ({refused})")
            if status := self._status:
                self._store.end(status)
                self._status = ""
        except Exception as error:
            self._is_matched = False  # some of the last rows may have arrived
            self._errors.log("rows", f"could not send rows, which are sent later ({self._describe(error)})")
            return False
        return True

    def _send_config(self) -> str:
        """Store the configuration; returns why that has failed. It must not keep rows from being sent."""
        with self._lock:
            config = self._config
        if config is None or self._num_refused >= _MOST_REFUSED:
            return ""
        try:
            self._store.configure(config)
        except Exception as error:
            return self._describe(error) or type(error).__name__
        with self._lock:
            self._config = None if self._config is config else self._config
        return ""

    def _send_rows(self) -> bool:
        """Send one part of the journal; returns whether it was the last one."""
        with self._lock:
            cuts, names = self._cuts, frozenset(self._names)
            begin, most = (self._offset, _MOST_ROWS) if self._is_matched else (0, None)
            rows, offset = self._journal.after(begin, most)
        if self._is_matched:
            self._store.send(rows)
        else:
            lacking = self._store.match(rows, names)
            for first in range(0, len(lacking), _MOST_ROWS):
                self._store.send(lacking[first : first + _MOST_ROWS])
        with self._lock:
            if cuts != self._cuts:  # the journal was cut meanwhile
                return False
            self._offset, self._is_matched = offset, True
        return not rows


def _next(thread: WakingThread, wait_s: float | None) -> set[str]:
    """Wait for something to do. New rows alone do not cause an attempt before its time.

    Args:
        thread: The thread.
        wait_s: Time until the next attempt, in seconds; None: nothing has failed.

    Returns:
        The reasons.
    """
    due = thread.take() if wait_s is None else set()
    until = time.monotonic() + (_PACE_S if wait_s is None else wait_s)
    while not due & {_FLUSH, _END} and (left_s := until - time.monotonic()) > 0:
        due |= thread.take(left_s)
    return due
