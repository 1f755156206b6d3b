"""Progress of a run: a small file that is overwritten once a second, whatever the length of a batch.

`cairn status` reads it, and the next attempt counts with it the batches that a kill has lost. It is not synced: the
file survives a killed process, and after a power cut it may only be a little out of date.

    training thread                    progress thread
    at_boundary: keep a reference      every second: write the newest boundary, if there is a new one
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cairn import opening, records
from cairn.known_directory import KnownDirectory
from cairn.records import RecordError
from cairn.types import Moment

_LENGTH = 256
"""Fixed length of the file in bytes, so that one write replaces all of it."""
_EVERY_S = 1.0
"""Seconds between two writes."""
_PATIENT_S = 10.0
"""Maximum time that the end of a fit waits for the last write, in seconds: a disk may hang."""


@dataclass(frozen=True)
class Progress:
    """Last known progress of a run."""

    epoch: int
    batch: int
    total_batches: int
    step: int
    elapsed_s: float
    """Training time over all attempts, in seconds."""
    at: float
    """Time of this boundary, in seconds since 1970."""
    batches_per_epoch: int | None = None

    @classmethod
    def of(cls, moment: Moment, at: float) -> Progress:
        """Return the progress at a boundary that was reached at `at`."""
        here = moment.position
        return cls(
            here.epoch, here.batch, here.total_batches, here.step, moment.elapsed_s, at, moment.batches_per_epoch
        )


class ProgressFile:
    """Keeps the file up to date while a fit runs. Disk errors are ignored, so that they do not stop the run.

    Args:
        path: Path of the file.
        every_s: Seconds between two writes.
    """

    is_patient = True

    def __init__(self, path: Path, every_s: float = _EVERY_S) -> None:
        self.path, self._every_s = path, every_s
        self._known = KnownDirectory.at_or_above(path.parent)
        self.latest: Callable[[], Moment | None] = lambda: None
        """Returns a boundary after the newest one that was noted; None: there is none."""
        self._newest: tuple[Moment, float] | None = None
        self._written: tuple[Moment, float] | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def at_boundary(self, moment: Moment) -> None:
        """Note the newest boundary; this takes less than a microsecond."""
        self._newest = (moment, time.time())
        if self._thread is None:
            self._begin()

    def fit_ended(self) -> None:
        """Write the last boundary, and end the thread."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join(_PATIENT_S)
            self._thread = None

    def _begin(self) -> None:
        self._ended.clear()
        self._thread = threading.Thread(target=self._write_all, name="progress-file", daemon=True)
        self._thread.start()

    def _write_all(self) -> None:
        """Body of the thread."""
        handle = self._write(-1)
        while not self._ended.wait(self._every_s):
            handle = self._write(handle)
        handle = self._write(handle)  # a boundary may have come after the last look
        if handle >= 0:
            os.close(handle)

    def _write(self, handle: int) -> int:
        """Write the newest boundary, if it is not written yet; returns the open file, or -1."""
        later = self.latest()
        newest = self._newest if later is None else (later, time.time())
        if newest is None or (self._written is not None and newest[0].position == self._written[0].position):
            return handle
        text = json.dumps(asdict(Progress.of(*newest))).ljust(_LENGTH - 1) + "\n"
        with suppress(OSError):  # a full disk may have room later
            if handle < 0:
                self._known.check()
                handle = opening.for_writing(self.path, mode=0o644)
            os.pwrite(handle, text.encode(), 0)
            self._written = newest
        return handle


def read(path: Path) -> Progress | None:
    """Return the progress in a file; None if the file is missing or damaged."""
    try:
        found = records.read(Progress, records.parse(opening.read_bytes(path)))
        records.require_finite(found, "elapsed_s", "at")
        records.require_counts(found, "epoch", "batch", "total_batches", "step", "batches_per_epoch")
    except (OSError, RecordError):
        return None
    return found
