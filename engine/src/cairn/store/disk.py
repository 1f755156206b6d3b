"""What a crash leaves: whole files, links that hold and directories that stay, each made in one step and synced.

Every system call goes through `os`, where tests can watch it, fail it, and cut the power after it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cairn.store import names

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}  # what a file system says that cannot sync a directory
CHUNK_BYTES = 2**22
"""What is checked and written at a time: small enough for a processor's cache, large enough for a disk."""
PAGE = 4096
"""What a processor maps, and what a disk that is written to directly takes, at a time; in bytes."""
PLAIN = "sha256:"
"""How the digests of manifest format 1 begin: those of `sha256`. What came later is `archive.digest`'s."""
_PROBE_BYTES = 4096  # a full disk may still take an empty file


def put(path: Path, data: bytes) -> None:
    """Make a file that appears under its name only when it is whole and on the disk.

    Raises:
        OSError: it could not be written, and no temporary file is left. What was there under that name is untouched,
            unless only the last sync of the directory failed.
    """
    put_chunks(path, [memoryview(data)], len(data))


def put_chunks(
    path: Path, chunks: Iterable[memoryview], num_bytes: int, beat: Callable[[int], None] = lambda num_bytes: None
) -> None:
    """`put` for a file that comes piece by piece.

    Args:
        path: its name.
        chunks: each `CHUNK_BYTES` long but the last.
        num_bytes: what they come to.
        beat: told after each of them how many bytes were written so far.

    Raises:
        OSError: as in `put`.
    """
    with _under_its_name_at_last(path) as temp, _File(temp, num_bytes) as file:
        if num_bytes <= CHUNK_BYTES:
            for chunk in chunks:
                file.write(chunk)
        else:
            _beside(chunks, lambda chunk: beat(file.write(chunk)))
        file.sync(num_bytes)


def sha256(path: Path) -> str:
    """Of all bytes of a file, as in manifests of format 1."""
    with open(path, "rb") as file:
        return PLAIN + hashlib.file_digest(file, "sha256").hexdigest()


def _beside(chunks: Iterable[memoryview], write: Callable[[memoryview], None]) -> None:
    """Write each chunk while the next one is being made."""
    written: Future[None] | None = None
    with ThreadPoolExecutor(1) as thread:
        for chunk in chunks:
            if written is not None:
                written.result()
            written = thread.submit(write, chunk)
        if written is not None:
            written.result()


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
    temp = path.with_name(names.temp_name(path.name))
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
    gone = path.with_name(names.temp_name(path.name))
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


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let `is_locked` say so, as long as this is entered and this process lives; where there are locks."""
    with _opened(directory) as handle:
        if handle is not None:
            _lock(handle, fcntl.LOCK_EX)
        yield


def is_locked(directory: Path) -> bool:
    """Is somebody in `locked`?"""
    with _opened(directory) as handle:
        return handle is not None and not _lock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it is gone, and what is to be done there will say so
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, how: int) -> bool:
    """False if somebody else has it. It ends with the handle."""
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def sync_path(path: Path) -> None:
    """Make a directory that somebody else has made survive a power cut, with those above it."""
    for place in (path, *path.parents):
        with suppress(OSError):  # one that we may not read was there before
            sync_directory(place)


def why_unwritable(directory: Path) -> str:
    """Make the directory and try to make a file in it; returns what speaks against it, or nothing."""
    probe = directory / names.PROBE
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


class _File:
    """A new file for writing. A large one goes around the system's cache, where that is possible.

    A checkpoint is not read again soon, and copying it into the cache takes most of the time that a write costs the
    processor. It takes pages of memory, in their order; what does not fit goes the usual way.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        self._direct = getattr(os, "O_DIRECT", 0) if num_bytes > CHUNK_BYTES else 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._handle = os.open(path, flags | self._direct, 0o666)
        except OSError as error:
            if not self._direct or error.errno not in _NOT_DIRECT:
                raise
            self._direct = 0
            self._handle = os.open(path, flags, 0o666)
        self._num_bytes = 0

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)

    def write(self, data: memoryview) -> int:
        """Append; returns how many bytes the file has now."""
        while data:
            pages = len(data) - len(data) % PAGE
            if self._direct and (pages == 0 or self._num_bytes % PAGE):
                self._write_through_cache()
            try:
                count = os.write(self._handle, data[:pages] if self._direct else data)
            except OSError as error:
                if not self._direct or error.errno not in _NOT_DIRECT:
                    raise
                self._write_through_cache()
                continue
            self._num_bytes += count
            data = data[count:]
        return self._num_bytes

    def sync(self, num_bytes: int) -> None:
        """Let it survive a power cut, and see that it has the size that it should have."""
        os.fsync(self._handle)
        if (found := os.fstat(self._handle).st_size) != num_bytes:
            raise OSError(errno.EIO, f"{found} of {num_bytes} bytes have arrived")

    def _write_through_cache(self) -> None:
        flags = fcntl.fcntl(self._handle, fcntl.F_GETFL)
        fcntl.fcntl(self._handle, fcntl.F_SETFL, flags & ~self._direct)
        self._direct = 0


_NOT_DIRECT = {errno.EINVAL, errno.ENOTSUP}
