"""The message for a checkpoint that could not be written."""

from __future__ import annotations

import errno
from pathlib import Path

from cairn.store import disk
from cairn.units import format_bytes

_FULL = {errno.ENOSPC, errno.EDQUOT}


def why_not_written(path: Path, error: OSError, needed_bytes: int) -> str:
    """Return the message for a checkpoint that could not be written.

    Args:
        path: File that was to be written.
        error: What the system reported.
        needed_bytes: Size of the checkpoint in bytes.
    """
    why = error.strerror or str(error)
    if error.errno in _FULL:
        free = format_bytes(disk.free_bytes(path))
        why += f" (it needs about {format_bytes(needed_bytes)}, and {free} are free there)"
    elif error.errno == errno.EFBIG:
        why += f" (it needs about {format_bytes(needed_bytes)}; {_limit()})"
    return f"The checkpoint {path} could not be written: {why}."


def _limit() -> str:
    limit_bytes = disk.max_file_bytes()
    if limit_bytes is None:
        return "the file system allows no file of that size"
    return f"ulimit -f allows files of {format_bytes(limit_bytes)}"
