"""Rows on their way into a `MetricsFile`: they wait in memory while a large file is written again."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn import opening
from cairn.known_directory import KnownDirectory
from cairn.lightning.logs.metrics_file import MetricsFile, Row

log = logging.getLogger(__name__)


class MetricsWriter:
    """Writes rows to a file. A new key adds a column, which takes a thread of its own if the file is large.

    Args:
        path: The file, which is created with the first row. One that is there belongs to an earlier run.
    """

    def __init__(self, path: Path) -> None:
        self.file = MetricsFile(path)
        self._known = KnownDirectory.at_or_above(path.parent.parent)
        self._buffer: list[Row] = []
        self._fresh = True
        """The file, if there is one, belongs to an earlier run."""
        self._position: Mapping[str, Any] | None = None
        """The state to go back to before anything is written; None: the file is there already."""
        self._warned = False
        self._lock = threading.RLock()
        """Held while rows are added or written, but not while a large file is written again."""
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        """Why the thread has failed."""

    def __getstate__(self) -> dict[str, Any]:
        self.wait()
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def add(self, row: Row) -> None:
        """Add a row, which the next `flush` writes."""
        with self._lock:
            self._buffer.append(row)

    def save(self) -> None:
        """Write the rows. If that fails, log an error once and keep the rows for the next call."""
        try:
            self.flush()
        except OSError as error:
            self._report(error)

    def flush(self) -> None:
        """Write the rows, or leave that to the thread that adds a column.

        Raises:
            OSError: They could not be written.
        """
        with self._lock:
            if not self._buffer or self._thread is not None:
                return
            self._known = self._known.make(self.file.path.parent)
            self._go_back()
            if not self._fresh and not self.file.path.is_file():
                log.error(
                    "%s was removed by another program: its first %d rows are lost, and a new file is started.",
                    self.file.path,
                    self.file.num_rows,
                )
                self._fresh = True
            columns = self._needed()
            if self._fresh:
                self.file.create(columns)
                self._fresh = False
            elif columns != self.file.columns and self.file.is_large:
                self._thread = threading.Thread(target=self._rearrange, args=(columns,), name="metrics-columns")
                self._thread.start()
                return
            elif columns != self.file.columns:
                self.file.rearrange(columns)
            self.file.append(self._buffer)
            self._buffer, self._warned, self._error = [], False, None

    def state(self) -> dict[str, Any]:
        """Write the rows, and return how much of the file belongs to this position.

        Raises:
            OSError: The rows could not be written.
        """
        with self._lock:
            self._go_back()
            self.flush()
            if not self._buffer:
                return self.file.state()
            # A thread adds a column, and then these rows; `sync` waits for it.
            return {"rows": self.file.num_rows + len(self._buffer), "columns": self._needed()}

    def sync(self) -> None:
        """Make the rows up to the last `state` survive a power cut.

        Raises:
            OSError: The file could not be written or synced.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        if self.file.num_rows:
            with opening.for_reading(self.file.path) as file:
                os.fsync(file.fileno())

    def cut(self, state: Mapping[str, Any]) -> None:
        """Go back to a `state` before the next row is written: until then, this start may still be refused."""
        self.wait()
        with self._lock:
            self._buffer, self._position = [], state

    def cut_now(self) -> None:
        """Go back to the state of `cut`. If that fails, log an error once, and try again with the next row."""
        try:
            with self._lock:
                self._go_back()
        except OSError as error:
            self._report(error)

    def wait(self) -> None:
        """Wait until no thread writes the file again."""
        while (thread := self._thread) is not None:
            thread.join()

    def _go_back(self) -> None:
        if self._position is not None and self._position["rows"]:
            self._known = self._known.make(self.file.path.parent)
            self.file.cut(self._position)
            self._fresh = False
        self._position = None

    def _needed(self) -> list[str]:
        """Return the columns of the file with those of the rows that wait."""
        return sorted({*self.file.columns, *(name for row in self._buffer for name in row)})

    def _rearrange(self, columns: Sequence[str]) -> None:
        """Body of the thread: write the file again, and then the rows that have come meanwhile."""
        try:
            self.file.rearrange(columns)
            with self._lock:
                self._thread = None
                self.flush()
        except Exception as error:  # `wait` must come to an end, whatever it is
            failed = error if isinstance(error, OSError) else OSError(errno.EIO, repr(error))
            with self._lock:
                self._thread, self._error = None, failed
                self._report(failed)

    def _report(self, error: OSError) -> None:
        if not self._warned:
            log.error(
                "%s cannot be written (%s): training continues, and its rows are kept for the next try.",
                self.file.path,
                error.strerror,
            )
        self._warned = True
