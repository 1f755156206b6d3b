"""The lock of a checkpoint directory, held by the process that trains.

A POSIX lock ends with its process and is not inherited by a fork, such as a data worker. But it also ends when its
process closes any other handle of the same file, so that nothing except this module opens it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

from cairn import opening
from cairn.store import names

log = logging.getLogger(__name__)

_POLL_S = 0.05
_HELD = {errno.EAGAIN, errno.EACCES}  # POSIX allows both


class InUse(Exception):
    """Another process holds the lock."""


class DirectoryLock:
    """The lock of a directory. All claims of one process for one directory share it."""

    def __init__(self, handle: int) -> None:
        self.handle, self.pid, self.num_holders = handle, os.getpid(), 1

    @classmethod
    def take(cls, directory: Path, patience_s: float) -> DirectoryLock:
        """Take the lock.

        Args:
            directory: The directory.
            patience_s: Maximum time to wait for another process, in seconds.

        Raises:
            InUse: Another process holds it.
            OSError: The file cannot be opened.
        """
        path, until = directory / names.LOCK, time.monotonic() + patience_s
        while True:
            if (held := _held.get(_key(path) or (0, 0))) is not None and held.pid == os.getpid():
                held.num_holders += 1  # it is not opened again, see the head of this module
                return held
            handle = opening.for_writing(path, os.O_RDWR)
            if _try_lock(handle, directory):
                if (key := _key(path)) == _key(handle):
                    assert key is not None
                    _held[key] = lock = cls(handle)
                    return lock
                os.close(handle)  # a start that was refused has removed the file meanwhile
                continue
            os.close(handle)
            if time.monotonic() >= until:
                raise InUse
            time.sleep(_POLL_S)

    def release(self) -> None:
        """Release it, if nothing else in this process holds it."""
        self.num_holders -= 1
        if self.num_holders == 0 and self.pid == os.getpid():
            for key in [key for key, lock in _held.items() if lock is self]:
                del _held[key]
            os.close(self.handle)


def is_held_elsewhere(directory: Path) -> bool:
    """Whether another process holds the lock of a directory."""
    path = directory / names.LOCK
    if (key := _key(path)) is None or ((held := _held.get(key)) is not None and held.pid == os.getpid()):
        return False
    try:
        handle = opening.for_writing(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return try_lock(handle) is False
    finally:
        os.close(handle)


_held: dict[tuple[int, int], DirectoryLock] = {}
"""The locks of this process, by device and inode of their files."""


def _key(file: Path | int) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def try_lock(handle: int) -> bool | None:
    """Lock a file until its process ends or closes it, with a POSIX lock.

    Returns:
        True: it is locked; False: another process holds the lock; None: the file system has no locks.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _try_lock(handle: int, directory: Path) -> bool:
    if (locked := try_lock(handle)) is None:
        log.info("%s has no file locks: a second start of this run is noticed only at the next save.", directory)
    return locked is not False
