"""An earlier checkpoint of the same name, which stays valid until its successor is committed.

    1  epoch_000_batch_000150.ckpt  ->  .epoch_000_batch_000150.ckpt.before     and the directory is synced
    2  the successor, complete      ->  epoch_000_batch_000150.ckpt             and the directory is synced
    3  its manifest                 ->  epoch_000_batch_000150.json             COMMITTED
    4  the hidden one is deleted

Up to 3, the manifest is that of the hidden one. So the manifest decides which of the two is the checkpoint: `settle`
puts the hidden one back if that is the one whose bytes fit, after a failure, and at the next start after a crash.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError, SaveError
from cairn.store import directory_lock, disk, manifest, names
from cairn.store.catalog import is_newer, verify
from cairn.types import Saved

INTERRUPTED = "a save in its place was interrupted; the next start of the run gives it its name back"
"""What is said of a checkpoint that `waiting` returns."""


def put_aside(path: Path) -> None:
    """Make way for a file or directory that is complete under its hidden name.

    Args:
        path: Where it will be. A checkpoint that is there is renamed; what was never committed is deleted.

    Raises:
        OSError: A step failed.
        SaveError: A later version of Cairn wrote the checkpoint that is there.
    """
    if is_newer(path):
        raise SaveError(f"The checkpoint {path} was not written: a later version of Cairn wrote the one that is there.")
    hidden = _hidden(path)
    settle(path)  # a writer that died may have left one
    if not os.path.lexists(path):
        return
    disk.remove(hidden)
    os.replace(path, hidden)
    if os.path.lexists(_manifest(path)):
        disk.sync_directory(path.parent)  # in a power cut, the next rename must not survive without this one
    else:
        disk.remove(hidden)


def settle(path: Path) -> None:
    """Leave one checkpoint of a name, the one that its manifest describes; nothing changes if neither fits.

    Args:
        path: The checkpoint.

    Raises:
        OSError: A step failed.
    """
    hidden = _hidden(path)
    if not os.path.lexists(hidden):
        return
    try:
        saved = manifest.load(opening.read_bytes(_manifest(path)))
    except (OSError, CheckpointError):
        return
    if _fits(path, saved):
        with suppress(OSError):  # it does no harm
            disk.sync_directory(path.parent)
            disk.remove(hidden)
    elif _fits(hidden, saved):
        away = path.with_name(names.attempt_name(path.name, names.new_attempt()))
        if os.path.lexists(path):
            os.replace(path, away)
        os.replace(hidden, path)
        disk.sync_directory(path.parent)
        disk.remove(away)


def settle_all(directory: Path) -> None:
    """Settle every checkpoint in a directory, unless another process trains there, whose own they are.

    Args:
        directory: A directory of checkpoints; it may not exist yet.

    Raises:
        OSError: A step failed.
    """
    if not _all_hidden(directory) or directory_lock.is_held_elsewhere(directory):
        return
    with disk.locked(directory):  # each rank may do this at its start
        for name in _all_hidden(directory):
            settle(directory / name)


def waiting(directory: Path) -> list[str]:
    """Names of checkpoints that the next start gives back to an earlier one, see `settle`; nothing changes.

    Args:
        directory: A directory of checkpoints; it may not exist yet.
    """
    found = []
    for name in _all_hidden(directory):
        with suppress(OSError, CheckpointError):
            saved = manifest.load(opening.read_bytes(_manifest(directory / name)))
            if not _fits(directory / name, saved) and _fits(_hidden(directory / name), saved):
                found.append(name)
    return found


def delete(path: Path) -> None:
    """Delete the predecessor of a checkpoint that is committed, if there is one.

    Args:
        path: The checkpoint.

    Raises:
        OSError: It could not be deleted.
    """
    disk.remove(_hidden(path))


def is_aside(path: Path) -> bool:
    """Whether a predecessor waits for the commit of its successor.

    Args:
        path: The checkpoint.
    """
    return os.path.lexists(_hidden(path))


def is_last(path: Path) -> bool:
    """Whether a file is of a checkpoint that has only its hidden name, and a manifest that `settle` could not read.

    Args:
        path: Any file or directory of a checkpoint directory.
    """
    name = names.name_before(path.name) or names.checkpoint_of(path.name)
    if name is None or os.path.lexists(path.with_name(name)):
        return False
    return is_aside(path.with_name(name)) and os.path.lexists(_manifest(path.with_name(name)))


def _all_hidden(directory: Path) -> list[str]:
    try:
        found = [names.name_before(name) for name in os.listdir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if name is not None)


def _fits(path: Path, saved: Saved) -> bool:
    try:
        verify(path, saved)
    except CheckpointError:
        return False
    return True


def _manifest(path: Path) -> Path:
    return path.with_name(names.manifest_name(path.name))


def _hidden(path: Path) -> Path:
    return path.with_name(names.before_name(path.name))
