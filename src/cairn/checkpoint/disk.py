"""What a crash leaves: whole files, links that hold and directories that stay, each made in one step and synced.

Every system call goes through `os`, where tests can watch it, fail it, and cut the power after it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cairn.checkpoint import layout

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}  # what a file system says that cannot sync a directory
_BUFFER_BYTES = 2**20
_PROBE_BYTES = 4096  # a full disk may still take an empty file


@dataclass(frozen=True)
class Written:
    """What went into a file."""

    num_bytes: int
    sha256: str


def put(path: Path, write: Callable[[BinaryIO], Any]) -> Written:
    """Let `write` fill a file that appears under its name only when it is whole and on the disk.

    Raises:
        OSError: it could not be written, and no temporary file is left. What was there under that name is untouched,
            unless only the last sync of the directory failed.
    """
    with _under_its_name_at_last(path) as temp, _HashingFile(temp) as raw:
        try:
            buffered = io.BufferedWriter(raw, _BUFFER_BYTES)
            write(buffered)
            buffered.flush()
        except Exception as error:
            if raw.error is None:
                raise
            raise raw.error from error  # torch's zip writer hides the reason behind a RuntimeError of its own
        os.fsync(raw.fileno())
    return Written(raw.num_bytes, raw.digest())


def link(path: Path, target: str) -> None:
    """Let a relative link point to `target`, in one step."""
    if path.is_symlink() and os.readlink(path) == target:
        return
    with _under_its_name_at_last(path) as temp:
        remove(temp)
        os.symlink(target, temp)


@contextmanager
def _under_its_name_at_last(path: Path) -> Iterator[Path]:
    """Make something under a hidden name; it gets its own when that went well, and nothing is left of it if not."""
    temp = path.with_name(layout.temp_name(path.name))
    try:
        yield temp
        os.replace(temp, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temp)
        raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a link, if it is there."""
    if os.path.lexists(path):
        os.unlink(path)


def remove_pair(path: Path, proof: Path) -> None:
    """Delete a file with the one that vouches for it.

    It loses its name first, and for good: a file without its proof is then either not finished or has lost it, and what
    a kill in between leaves has a name for leftovers.
    """
    gone = path.with_name(layout.temp_name(path.name))
    if os.path.lexists(path):
        os.replace(path, gone)
        with suppress(OSError):
            sync_directory(path.parent)
    remove(proof)
    remove(gone)


def make_directory(path: Path) -> None:
    """Make a directory and what is missing above it."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    for place in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(place)
        sync_directory(place.parent)


def sync_directory(path: Path) -> None:
    """Make what was renamed, linked or deleted in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def sync_path(path: Path) -> None:
    """Make a directory that somebody else has made survive a power cut, with those above it."""
    for place in (path, *path.parents):
        with suppress(OSError):  # one that we may not read was there before
            sync_directory(place)


def why_unwritable(directory: Path) -> str:
    """Make the directory and try to make a file in it; returns what speaks against it, or nothing."""
    probe = directory / layout.PROBE
    try:
        make_directory(directory)
        try:
            handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                os.write(handle, bytes(_PROBE_BYTES))
                os.fsync(handle)
            finally:
                os.close(handle)
        finally:
            remove(probe)
    except OSError as error:
        return f"{error.strerror} ({error.filename or directory})"
    return ""


def free_bytes(path: Path) -> int:
    """What can still be written where `path` is, or will be."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


class _HashingFile(io.RawIOBase):
    """A new file for writing that hashes what reaches the system: the checksum costs no second reading."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._hash, self.num_bytes = hashlib.sha256(), 0
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._handle

    def write(self, data: Any) -> int:
        try:
            count = os.write(self._handle, data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(memoryview(data)[:count])
        self.num_bytes += count
        return count

    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._handle)
