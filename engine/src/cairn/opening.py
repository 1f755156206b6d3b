"""Opens files in directories that may come from other people: the only door to them.

    a FIFO or a device waits for ever            opened without waiting, then refused by its kind
    a sparse file of a terabyte                  refused by its size before anything is read
    a link that is opened for writing            refused: the file behind it belongs to someone else
    an old temporary file, whatever it is        loses its name first, then a new file gets it

A link that is opened for reading is followed, because `last.ckpt` is one, and data managers keep files behind links.
Every reader here raises an OSError, which callers already expect of a disk.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

MOST_BYTES = 2**26
"""Upper limit for a file that is read whole: a record, a manifest, a configuration."""
MOST_ROW_BYTES = 2**34
"""Upper limit for a file that is read row by row: a table, a journal."""
MOST_LINE_BYTES = 2**24
"""Upper limit for one line of such a file."""

_PIECE_BYTES = 2**20
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
}
# Opening a FIFO for reading would wait for its writer. A terminal must not become that of this process.
_ALWAYS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def check(path: Path, most_bytes: int | None = None) -> int:
    """Check that a path is a regular file, or a link to one, before other code opens it by its name.

    Args:
        path: The file.
        most_bytes: Upper limit for its size; None: any size.

    Returns:
        Its size, in bytes.

    Raises:
        OSError: It does not exist, is not a regular file, or is too large.
    """
    return _check(os.stat(path), path, most_bytes)


def for_reading(path: Path, most_bytes: int | None = None) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: The file, or a link to it.
        most_bytes: Upper limit for its size; None: any size.

    Raises:
        OSError: It does not exist, is not a regular file, or is too large.
    """
    return open(_opened(path, most_bytes)[0], "rb")


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a whole file.

    Args:
        path: The file, or a link to it.
        most_bytes: Upper limit for its size.

    Raises:
        OSError: It does not exist, is not a regular file, or is too large.
    """
    handle, num_bytes = _opened(path, most_bytes)
    try:
        # Without a file object, which takes longer than the rest: a directory may hold ten thousand manifests. A file
        # of /proc has more bytes than its size says, so that only an empty piece is the end.
        pieces = [os.read(handle, num_bytes + 1)]
        while pieces[-1]:
            pieces.append(os.read(handle, _PIECE_BYTES))
            num_bytes = sum(map(len, pieces))
            if num_bytes > most_bytes:
                raise _too_large(path, num_bytes, most_bytes)
    finally:
        os.close(handle)
    return b"".join(pieces)


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Read a whole file of UTF-8.

    Args:
        path: The file, or a link to it.
        most_bytes: Upper limit for its size.

    Raises:
        OSError: It does not exist, is not a regular file, or is too large.
        UnicodeDecodeError: It is not UTF-8. (A ValueError.)
    """
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, most_bytes)), encoding="utf-8").read()


def rows(path: Path, newline: str | None = None) -> IO[str]:
    """Open a file of rows for reading: a table or a journal, which may be long. Bytes that are not UTF-8 are replaced.

    Args:
        path: The file, or a link to it.
        newline: As in `open`.

    Raises:
        OSError: It does not exist, is not a regular file, or is too large.
    """
    return io.TextIOWrapper(for_reading(path, MOST_ROW_BYTES), encoding="utf-8", errors="replace", newline=newline)


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of rows; of one that is longer than `MOST_LINE_BYTES`, only the beginning.

    Args:
        path: The file, or a link to it.

    Raises:
        OSError: It does not exist, is not a regular file, or is too large.
    """
    with rows(path) as file:
        is_rest = False
        while line := file.readline(MOST_LINE_BYTES):
            if not is_rest:
                yield line
            is_rest = not line.endswith("\n")


def for_writing(path: Path, flags: int = os.O_WRONLY, mode: int = 0o666) -> int:
    """Open a regular file for writing, or create it. Its content stays.

    Args:
        path: The file. A link is refused, wherever it points to.
        flags: How to open it: `os.O_WRONLY` or `os.O_RDWR`, and `os.O_APPEND` and the like.
        mode: Permissions of a new file.

    Returns:
        Its handle, which the caller closes.

    Raises:
        OSError: It cannot be written, or is not a regular file.
    """
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | _ALWAYS, mode)
    except OSError as error:
        raise _explained(error, path) from error
    try:
        _check(os.fstat(handle), path, None)
    except BaseException:
        os.close(handle)
        raise
    return handle


def for_appending(path: Path) -> BinaryIO:
    """Open a regular file for reading and appending without a buffer, or create it.

    Args:
        path: The file. A link is refused, wherever it points to.

    Raises:
        OSError: It cannot be written, or is not a regular file.
    """
    return open(for_writing(path, os.O_RDWR | os.O_APPEND), "ab+", buffering=0)


def cut(path: Path, num_bytes: int) -> None:
    """Shorten a regular file.

    Args:
        path: The file. A link is refused, wherever it points to.
        num_bytes: Its new size.

    Raises:
        OSError: It cannot be written, or is not a regular file.
    """
    handle = for_writing(path)
    try:
        os.ftruncate(handle, num_bytes)
    finally:
        os.close(handle)


def make_new(path: Path, flags: int = os.O_WRONLY, mode: int = 0o666) -> int:
    """Create a file under a name that belongs to the caller, such as that of a temporary file.

    Whatever has the name already loses it first. Emptying it in place would empty the file behind a link, also behind
    a hard link.

    Args:
        path: The file.
        flags: How to open it.
        mode: Its permissions.

    Returns:
        Its handle, which the caller closes.

    Raises:
        OSError: It cannot be created, for example because a directory has its name.
    """
    created = flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, created, mode)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, created, mode)


def make_once(path: Path) -> bool:
    """Create an empty file, which several processes may try; return whether this one did it.

    Raises:
        OSError: It cannot be created, for another reason than that its name is taken.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        return False
    return True


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Create a file as `make_new` does, and close it at the end of the block.

    Raises:
        OSError: It cannot be created.
    """
    with open(make_new(path), "wb") as file:
        yield file


def links_among(paths: Iterable[Path]) -> list[Path]:
    """Return those paths that are not regular files: what code that opens by name must not write to.

    Args:
        paths: Files, which may be missing.
    """
    found = []
    for path in paths:
        with suppress(OSError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                found.append(path)
    return found


def _opened(path: Path, most_bytes: int | None) -> tuple[int, int]:
    """Open a file for reading; return its handle and its size."""
    try:
        handle = os.open(path, os.O_RDONLY | _ALWAYS)
    except OSError as error:
        raise _explained(error, path) from error
    try:
        return handle, _check(os.fstat(handle), path, most_bytes)
    except BaseException:
        os.close(handle)
        raise


def _check(found: os.stat_result, path: Path, most_bytes: int | None) -> int:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(code, f"it is {kind}, not a regular file", str(path))
    if most_bytes is not None and found.st_size > most_bytes:
        raise _too_large(path, found.st_size, most_bytes)
    return found.st_size


def _too_large(path: Path, num_bytes: int, most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {num_bytes} bytes, and at most {most_bytes} are read", str(path))


def _explained(error: OSError, path: Path) -> OSError:
    """Say what is in the way where the system only says "no such device" or "too many levels of symbolic links"."""
    with suppress(OSError):
        found = os.lstat(path)
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) and not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            return type(error)(error.errno, f"it is {kind}, not a regular file", str(path))
    return error
