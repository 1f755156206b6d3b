"""Progress of a run: a small file that is overwritten at each boundary.

`cairn status` reads it, and the next attempt counts with it the batches that a kill has lost. It is not synced: the
file survives a killed process, and after a power cut it may only be a little out of date.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cairn import opening, records
from cairn.known_directory import KnownDirectory
from cairn.records import RecordError

_LENGTH = 256
"""Fixed length of the file in bytes, so that one write replaces all of it."""


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
    """Time of this record, in seconds since 1970."""
    batches_per_epoch: int | None = None


class ProgressFile:
    """Keeps the file up to date. Disk errors are ignored, so that they do not stop the run.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._known = KnownDirectory.at_or_above(path.parent)

    def at_boundary(self, progress: Progress) -> None:
        """Write the progress of the run; this takes microseconds."""
        text = json.dumps(asdict(progress)).ljust(_LENGTH - 1) + "\n"
        with suppress(OSError):
            if self._file < 0:
                self._known.check()
                self._file = opening.for_writing(self.path, mode=0o644)
            os.pwrite(self._file, text.encode(), 0)

    def fit_ended(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def read(path: Path) -> Progress | None:
    """Return the progress in a file; None if the file is missing or damaged."""
    try:
        found = records.read(Progress, records.parse(opening.read_bytes(path)))
        records.require_finite(found, "elapsed_s", "at")
        records.require_counts(found, "epoch", "batch", "total_batches", "step", "batches_per_epoch")
    except (OSError, RecordError):
        return None
    return found
