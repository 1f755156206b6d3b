"""Progress of a run: a small file that is overwritten at each boundary, for `status` and for what a kill has cost.

It is not synced: it survives a kill, and after a power cut only an older figure is left.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_LENGTH = 256
"""Size of the file in bytes; constant, so that one write replaces the whole content."""


@dataclass(frozen=True)
class Progress:
    """Position of a run at its last boundary."""

    epoch: int
    batch: int
    total_batches: int
    step: int
    elapsed_s: float
    """Training time over all attempts, in seconds."""
    at: float
    """Time of the boundary, in seconds since 1970."""
    batches_per_epoch: int | None = None


class ProgressFile:
    """Keeps one file up to date; errors of the disk are ignored, because training does not depend on it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def write(self, progress: Progress) -> None:
        """Overwrite the file; takes microseconds."""
        text = json.dumps(asdict(progress)).ljust(_LENGTH - 1) + "\n"
        with suppress(OSError):
            if self._file < 0:
                self._file = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o644)
            os.pwrite(self._file, text.encode(), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def read(path: Path) -> Progress | None:
    """Read a progress file; None if it is missing or unreadable."""
    try:
        return Progress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
