"""A local job waits here until one of the slots of its sweep is free, and becomes the job. Standard library only.

    python -I -S slots.py FOLDER DEVICES COMMAND...

Each job of a sweep is a process from the beginning, so that it has an id, and needs no other process to start it: not
the command that has submitted it, which may end or be killed. A job that runs holds a lock on the file of its slot. The
lock ends with the process, however that ends. Only the first of those that wait looks for a free slot; the others wait
for its place.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

_POLL_S = 0.2


def run_in_slot(folder: str, devices: Sequence[str | None], command: Sequence[str]) -> NoReturn:
    """Wait for a free slot, and become a command that holds it.

    Args:
        folder: Where the files of the slots are.
        devices: For each slot, the value of CUDA_VISIBLE_DEVICES; None: it stays as it is.
        command: Path of a program, and its arguments.
    """
    os.makedirs(folder, exist_ok=True)
    with os.fdopen(_opened(os.path.join(folder, "next")), "a") as place:
        fcntl.flock(place, fcntl.LOCK_EX)
        while (slot := _take(folder, len(devices))) is None:
            time.sleep(_POLL_S)
    found = devices[slot]
    os.execve(command[0], list(command), os.environ | ({} if found is None else {"CUDA_VISIBLE_DEVICES": found}))


def _take(folder: str, number: int) -> int | None:
    """Lock a free slot for this process and the program that it becomes; None if there is none."""
    for slot in range(number):
        handle = _opened(os.path.join(folder, str(slot)))
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.set_inheritable(handle, True)
            return slot
        os.close(handle)
    return None


def _opened(path: str) -> int:
    """Open a file for its lock. This module runs without the rest of the library, so it cannot use `cairn.opening`."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


if __name__ == "__main__":
    run_in_slot(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:])
