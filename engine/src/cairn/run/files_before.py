"""The files of a run directory as they were before a start, which puts them back if it is refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn import opening
from cairn.store import disk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    path: Path
    contents: bytes | None
    """None: it was missing."""
    times_ns: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> _File:
        if not path.is_file():
            return cls(path, None, (0, 0))
        found = path.stat()
        return cls(path, opening.read_bytes(path), (found.st_atime_ns, found.st_mtime_ns))

    def put_back(self) -> None:
        if self.contents is None:
            disk.remove(self.path)
        elif not self.path.is_file() or opening.read_bytes(self.path) != self.contents:
            disk.put(self.path, self.contents)
            os.utime(self.path, ns=self.times_ns)  # `resume=latest` is the run whose record changed last


class FilesBefore:
    """Files as they were when this object was made.

    Args:
        paths: The files, which may be missing.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_File.of(path) for path in paths if path.is_file() or not os.path.lexists(path)]

    def put_back(self) -> None:
        """Put all files back. If that fails, log an error."""
        try:
            for file in self._files:
                file.put_back()
        except OSError as error:
            log.error("A refused start has changed %s, which could not be restored: %s.", file.path, error.strerror)
