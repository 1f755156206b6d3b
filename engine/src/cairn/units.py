"""SPACE: how large a checkpoint will be, whether it fits, and the sentence for one that could not be written."""

from __future__ import annotations

import errno
from pathlib import Path

from cairn.store import disk

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def size(num_bytes: float) -> str:
    """`1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if float(f"{num_bytes:.3g}") < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def why_not_written(path: Path, error: OSError, needed_bytes: int) -> str:
    """The sentence about a checkpoint that could not be written, with what was needed and what is there."""
    why = error.strerror or str(error)
    if error.errno in _FULL:
        why += f" (it needs about {size(needed_bytes)}, and {size(disk.free_bytes(path))} are free there)"
    elif not path.parent.is_dir():
        why = f"{path.parent} is gone and cannot be made again ({why}; was it deleted, or its disk unmounted?)"
    return f"The checkpoint {path} could not be written: {why}."
