"""`last.ckpt` and `best.ckpt`: symbolic links, or small text files with the same meaning where there are no links.

exFAT, FAT and many network shares refuse `symlink`. The text file has the name of the link, so that all commands and
`ckpt_path=` take it in the same way; other programs cannot load it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from cairn import opening
from cairn.store import disk, names

_HEAD = "Cairn link to "
_MAX_BYTES = 256
_TROUBLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.ENOMEM, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EINTR, errno.EEXIST),
}
"""Errors of `symlink` with another meaning than that the file system has no links; the list of those has no end."""


def move(path: Path, target: str) -> None:
    """Make a link point to a file in its own directory, in one step.

    Args:
        path: The link.
        target: Name of the file.

    Raises:
        OSError: It could not be moved, and points to its previous target.
    """
    if named(path) == target:
        return
    try:
        with disk.renamed_at_end(path) as temp:
            disk.remove(temp)
            os.symlink(target, temp)
    except OSError as error:
        if error.errno in _TROUBLE:
            raise
        disk.put(path, f"{_HEAD}{target}\n".encode())


def named(path: Path) -> str:
    """Return the name of the file that a link points to, which may not exist; empty if `path` is not a link."""
    if path.is_symlink():
        return path.readlink().name
    with suppress(OSError, UnicodeDecodeError):
        text = opening.read_bytes(path, _MAX_BYTES).decode()
        name = text.removeprefix(_HEAD).removesuffix("\n")
        if text == f"{_HEAD}{name}\n" and names.parse_name(name):  # a name: it leads to no other directory
            return name
    return ""


def taken(directory: Path) -> Path | None:
    """Return a file or folder with the name of a link that is not one: a save would replace it, or fail. None: none."""
    for name in (names.LAST, names.BEST):
        path = directory / name
        if path.exists() and not path.is_symlink() and not named(path):
            return path
    return None


def target(path: Path) -> Path:
    """Return the absolute path of the file that `path` stands for: a file, or a link to one of either kind."""
    path = path.resolve()
    name = named(path)
    return path.with_name(name) if name else path


def are_possible(directory: Path) -> bool:
    """Try whether symbolic links can be made in a directory."""
    probe = directory / names.PROBE
    try:
        disk.remove(probe)
        os.symlink(names.LAST, probe)
    except OSError as error:
        return error.errno in _TROUBLE
    finally:
        with suppress(OSError):
            disk.remove(probe)
    return True
