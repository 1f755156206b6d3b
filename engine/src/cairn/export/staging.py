"""Exported files appear under their names only when they are complete, verified and on the disk.

FOLDER/.FILE.tmp/FILE    written here under its final name, and verified
FOLDER/FILE              moved; the file without which the others mean nothing comes last
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cairn.errors import CairnError, ConfigError, SaveError
from cairn.store import disk, names
from cairn.units import format_bytes


@contextmanager
def staged(to: Path, files: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """Yield a hidden folder for new files; move them to where they belong if the block ends without an error.

    Args:
        to: The folder that gets them. It is created if only its last part is missing.
        files: Names of the files that the block writes. It may write others, which belong to them.
        overwrite: Whether existing files are replaced.

    Raises:
        ConfigError: There is such a file, or no place for it.
        SaveError: The disk refuses a file.
    """
    _check(to, files, overwrite)
    is_new = not to.exists()
    hidden = to / names.temp_name(files[-1])
    try:
        disk.make_directory(to)
        try:
            _clear(hidden)
            os.mkdir(hidden)
            yield hidden
            _check(to, [*files, *os.listdir(hidden)], overwrite)
            _move(hidden, to, files)
        finally:
            _clear(hidden)
    except BaseException as error:
        if is_new:
            with suppress(OSError):
                os.rmdir(to)
        if not isinstance(error, OSError) or isinstance(error, CairnError):
            raise
        free = f" ({format_bytes(disk.free_bytes(to))} are free there)"
        raise SaveError(f"{to / files[-1]} could not be written: {error.strerror or error}{free}.") from error


def _check(to: Path, files: Sequence[str], overwrite: bool) -> None:
    if not to.parent.is_dir():
        raise ConfigError(f"There is no directory {to.parent}: create it first.")
    if os.path.lexists(to) and not to.is_dir():
        raise ConfigError(f"{to} is not a directory: name another one.")
    for path in (to / name for name in files):
        if path.is_dir():
            raise ConfigError(f"{path} is a directory: name another file.")
        if os.path.lexists(path) and not overwrite:
            raise ConfigError(f"{path} exists already: name another one, or replace it with --overwrite.")


def _clear(hidden: Path) -> None:
    """Remove the hidden folder, also that of an export that was killed."""
    if hidden.is_dir() and not hidden.is_symlink():
        shutil.rmtree(hidden)
    else:
        disk.remove(hidden)


def _move(hidden: Path, to: Path, files: Sequence[str]) -> None:
    """Move the files so that a crash leaves the old ones, the new ones, or a folder without the last of `files`."""
    more = sorted(set(os.listdir(hidden)) - set(files))
    *first, last = [*more, *files]
    for name in (*first, last):
        disk.sync_directory(hidden / name)  # of a file, it syncs the contents
    if first:
        disk.remove(to / last)
        disk.sync_directory(to)
    for name in first:
        os.replace(hidden / name, to / name)
    disk.sync_directory(to)
    os.replace(hidden / last, to / last)
    disk.sync_directory(to)
