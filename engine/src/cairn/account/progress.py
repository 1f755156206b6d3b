"""Progress of a run: a small file that each boundary overwrites, for `cairn status`, and for what a kill has cost.

It is not synced: what a killed process has written is still there, and after a power cut only the figure is older.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_LENGTH = 256
"""Bytes; always as many, so that one write replaces all of it."""


@dataclass(frozen=True)
class Progress:
    """Where a run was when it was last heard of."""

    epoch: int
    batch: int
    total_batches: int
    step: int
    elapsed_s: float
    """Training time over all restarts, in seconds."""
    at: float
    """Seconds since 1970."""
    batches_per_epoch: int | None = None


class ProgressFile:
    """Keeps one file up to date; an error of the disk does not stop the run.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def at_boundary(self, progress: Progress) -> None:
        """Write how far the run is; takes microseconds."""
        text = json.dumps(asdict(progress)).ljust(_LENGTH - 1) + "\n"
        with suppress(OSError):
            if self._file < 0:
                self._file = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o644)
            os.pwrite(self._file, text.encode(), 0)

    def fit_ended(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def read(path: Path) -> Progress | None:
    """What the file says; None if it says nothing."""
    try:
        return Progress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
