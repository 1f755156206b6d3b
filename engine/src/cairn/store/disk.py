"""Files, links and directories that survive a crash: each appears in one step, complete and synced.

    write to .NAME.tmp  ->  fsync the file  ->  rename to NAME  ->  fsync the directory

Every system call goes through `os`, so that tests can record it, let it fail, and simulate a power cut after it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cairn import opening
from cairn.store import names

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
"""From a file system that cannot open or sync a directory."""
_NOT_DIRECT = {errno.EINVAL, errno.ENOTSUP}  # from a file system without direct writes
CHUNK_BYTES = 2**22
"""How much is checksummed and written at a time: it fits into a processor's cache and keeps a disk busy."""
PAGE = 4096
"""Unit of memory mappings and of direct writes to a disk, in bytes."""
PLAIN = "sha256:"
"""Prefix of the digests in manifests of format 1, which `sha256` computes; see `file_format.digest` for later ones."""
_PROBE_BYTES = 4096  # not 0: a full disk may still accept an empty file


def put(path: Path, data: bytes) -> None:
    """Write or replace a file, which appears under its name only when it is complete and on the disk.

    Args:
        path: The file.
        data: Its content.

    Raises:
        OSError: It could not be written. No temporary file is left, and a previous file of that name is unchanged,
            unless only the last sync of the directory failed.
    """
    put_chunks(path, [memoryview(data)], len(data))


def put_hidden(path: Path, data: bytes) -> None:
    """Write or replace a file under a hidden name, from which the caller renames it later; on failure, delete it."""
    try:
        with _File(path, len(data)) as file:
            file.write(memoryview(data))
            file.sync(len(data))
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def put_chunks(
    path: Path,
    chunks: Iterable[memoryview],
    num_bytes: int,
    beat: Callable[[int], None] = lambda num_bytes: None,
    before_rename: Callable[[], None] = lambda: None,
) -> None:
    """Do as `put`, for content that comes in chunks.

    Args:
        path: The file.
        chunks: Its content; each chunk but the last has `CHUNK_BYTES`.
        num_bytes: Their total size.
        beat: Called after each chunk with the number of bytes written so far.
        before_rename: Called once the file is complete and synced, under its hidden name.

    Raises:
        OSError: As in `put`.
    """
    with renamed_at_end(path, before_rename) as temp, _File(temp, num_bytes) as file:
        if num_bytes <= CHUNK_BYTES:
            for chunk in chunks:
                file.write(chunk)
        else:
            _pipelined(chunks, lambda chunk: beat(file.write(chunk)))
        file.sync(num_bytes)


def sha256(path: Path) -> str:
    """SHA-256 of all bytes of a file, as in manifests of format 1."""
    with opening.for_reading(path) as file:
        return PLAIN + hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _pipelined(chunks: Iterable[memoryview], write: Callable[[memoryview], None]) -> None:
    """Write each chunk while the next one is computed."""
    written: Future[None] | None = None
    with ThreadPoolExecutor(1) as thread:
        for chunk in chunks:
            if written is not None:
                written.result()
            written = thread.submit(write, chunk)
        if written is not None:
            written.result()


@contextmanager
def renamed_at_end(path: Path, before_rename: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a hidden name to write to; rename it to `path` on success, delete it on failure."""
    temp = path.with_name(names.temp_name(path.name))
    try:
        yield temp
        before_rename()
        os.replace(temp, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temp)
        raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Delete a file, a link, or a directory of files, if it exists.

    Raises:
        OSError: It could not be deleted. A directory that holds another one is not deleted.
    """
    if path.is_dir() and not path.is_symlink():
        for name in os.listdir(path):
            os.unlink(path / name)
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def size_bytes(path: Path) -> int:
    """Size of a file, or of the files in a directory, in bytes; what is deleted meanwhile counts as empty."""
    found = [path / name for name in os.listdir(path)] if path.is_dir() and not path.is_symlink() else [path]
    total = 0
    for file in found:
        with suppress(FileNotFoundError):
            total += os.lstat(file).st_size
    return total


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(folder)
        sync_directory(folder.parent)


def sync_directory(path: Path) -> None:
    """Make renames, links and deletions in a directory survive a power cut."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


@contextmanager
def locked(directory: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a directory until the block ends or this process dies; no effect without lock support.

    With `shared`, the writers of several ranks hold it at the same time.
    """
    with _opened(directory) as handle:
        if handle is not None:
            _lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def is_locked(directory: Path) -> bool:
    """True if a process is inside `locked` for this directory, or looks at this very moment whether one is."""
    with _opened(directory) as handle:
        return handle is not None and not _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the directory is missing: the caller's next step on it will fail with a better message
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, how: int) -> bool:
    """Take the lock, which ends with the handle; return False if another process has it."""
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def sync_path(path: Path) -> None:
    """Make a directory that other code created survive a power cut, with its parents."""
    for folder in (path, *path.parents):
        with suppress(OSError):  # a directory that we may not read existed before
            sync_directory(folder)


def why_unwritable(directory: Path, num_bytes: int = _PROBE_BYTES) -> str:
    """Create a directory and try to write a file in it; return the reason why that failed, or an empty string."""
    probe = directory / names.PROBE
    try:
        make_directory(directory)
        handle = opening.make_new(probe)
        try:
            while num_bytes > 0:  # a disk that is nearly full takes a part
                num_bytes -= os.write(handle, bytes(num_bytes))
            os.fsync(handle)
        finally:
            os.close(handle)
            remove(probe)
    except OSError as error:
        limit = ", see ulimit -f" if error.errno == errno.EFBIG else ""
        return f"{error.strerror}{limit} ({error.filename or directory})"
    return ""


def free_bytes(path: Path) -> int:
    """Free space on the disk of `path`, which may not exist yet."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


def max_file_bytes() -> int | None:
    """Size of the largest file that this process may write (`ulimit -f`), in bytes; None: no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


class _File:
    """A new file for writing; a large one bypasses the page cache, where the file system allows it.

    A checkpoint is not read again soon, and copying it into the cache takes most of the processor time of a write. A
    direct write needs whole pages at page offsets; the rest of the file goes through the cache.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        self._direct = getattr(os, "O_DIRECT", 0) if num_bytes > CHUNK_BYTES else 0
        try:
            self._handle = opening.make_new(path, os.O_WRONLY | self._direct)
        except OSError as error:
            if not self._direct or error.errno not in _NOT_DIRECT:
                raise
            self._direct = 0
            self._handle = opening.make_new(path)
        self._num_bytes = 0

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)

    def write(self, data: memoryview) -> int:
        """Append `data`; return the size of the file."""
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
        """Make the file survive a power cut, and check its size."""
        os.fsync(self._handle)
        if (found := os.fstat(self._handle).st_size) != num_bytes:
            raise OSError(errno.EIO, f"the file has {found} bytes instead of {num_bytes}")

    def _write_through_cache(self) -> None:
        flags = fcntl.fcntl(self._handle, fcntl.F_GETFL)
        fcntl.fcntl(self._handle, fcntl.F_SETFL, flags & ~self._direct)
        self._direct = 0
