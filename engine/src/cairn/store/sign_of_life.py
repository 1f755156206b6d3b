"""Whether the writer of a rank is still at work on its shard: it locks a byte of a file until it has reported.

    .epoch_000_batch_000150.ckpt.ATTEMPT.tmp/
        writers.lock          byte k is locked by the writer of rank k

A POSIX lock ends with its process, also after kill -9 or when a node is lost, and not before: a writer that waits for a
slow disk still holds it. Where the file system has no locks, there is no sign.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cairn import opening
from cairn.store import names

_HELD = {errno.EAGAIN, errno.EACCES}  # POSIX allows both
_TRIES, _PAUSE_S = 3, 0.001
"""Who looks for the sign holds the lock meanwhile, for microseconds."""


@contextmanager
def shown(folder: Path, rank: int) -> Iterator[None]:
    """Show that the writer of a rank is at work, until the block ends or the process dies.

    Args:
        folder: Hidden directory of the attempt.
        rank: The rank.
    """
    try:
        handle = opening.for_writing(folder / names.WRITERS)
    except OSError:  # the next step in this directory fails as well, with a better message
        yield
        return
    try:
        for _ in range(_TRIES):
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
                break
            except OSError:
                time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(handle)


def is_shown(folder: Path, rank: int) -> bool:
    """Whether the writer of a rank, in another process, is known to be at work.

    Args:
        folder: Hidden directory of the attempt.
        rank: The rank.
    """
    try:
        handle = opening.for_writing(folder / names.WRITERS)
    except OSError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
    except OSError as error:
        return error.errno in _HELD
    finally:
        os.close(handle)
    return False
