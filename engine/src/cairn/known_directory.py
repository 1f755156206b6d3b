"""A directory as it was when a run started: the check that every writer makes before it writes there."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownDirectory:
    """A directory with the identity that it had when it was first seen.

    When a disk is unmounted, the path of a directory may still exist: as a bare mount point on another disk. A
    directory that was renamed may be created again by another program. Files that are written there are lost to the
    run, and the run would not learn of it.
    """

    path: Path
    device: int
    inode: int

    @classmethod
    def at_or_above(cls, path: Path) -> KnownDirectory:
        """Return the directory at `path`, or the nearest one above it that exists."""
        path = path.absolute()
        for folder in (path, *path.parents):
            if (found := _identity(folder)) is not None:
                return cls(folder, *found)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def check(self) -> None:
        """Check that the same directory is still there. Its files need not be: they are checked where they are used.

        Raises:
            OSError: It is missing, or another directory is in its place.
        """
        if _identity(self.path) != (self.device, self.inode):
            raise FileNotFoundError(errno.ENOENT, self.lost, str(self.path))

    def make(self, path: Path) -> KnownDirectory:
        """Create a directory below this one, unless this one is gone.

        Args:
            path: The directory.

        Returns:
            The directory that contains it, which the next call gets: from then on, it is not created again either.

        Raises:
            OSError: This directory is gone, or `path` cannot be created.
        """
        self.check()
        path.mkdir(parents=True, exist_ok=True)
        return self if self.path == path.absolute().parent else KnownDirectory.at_or_above(path.parent)

    @property
    def lost(self) -> str:
        """Message for a directory that is not there any more."""
        return f"{self.path} has been replaced or removed since the run started (renamed, deleted or unmounted)"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
