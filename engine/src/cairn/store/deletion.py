"""Delete checkpoints, so that a crash at any moment leaves what the next start recognizes.

    for each   epoch_000_batch_000150.ckpt  ->  .epoch_000_batch_000150.ckpt.tmp     it is not a checkpoint any more
    once       sync the directory                                                  takes as long as all the rest
    for each   delete epoch_000_batch_000150.json, then the hidden file

A directory of shards is renamed as a whole, too, and its shards are deleted under the hidden name.

A crash in between leaves hidden files and manifests without a checkpoint, which both count as leftovers. The other
order would leave checkpoints without a manifest, which look like lost manifests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cairn.errors import SaveError
from cairn.store import disk, names


def delete_checkpoints(directory: Path, found: Sequence[str]) -> None:
    """Delete checkpoints and their manifests.

    Args:
        directory: Where they are.
        found: Their names.

    Raises:
        SaveError: One could not be deleted; those after it were not tried.
    """
    hidden: list[Path] = []
    is_renamed = False
    try:
        for name in found:
            path = directory / name
            with _failing(path):
                if os.path.lexists(path):
                    if path.is_dir():  # a rename replaces a file, but not a directory that was not deleted completely
                        disk.remove(_hidden(path))
                    os.replace(path, _hidden(path))
                    is_renamed = True
            hidden.append(path)
    finally:
        if is_renamed:
            with suppress(OSError):
                disk.sync_directory(directory)
        for path in hidden:
            with _failing(path):
                disk.remove(path.with_name(names.manifest_name(path.name)))
                disk.remove(_hidden(path))


def _hidden(path: Path) -> Path:
    return path.with_name(names.temp_name(path.name))


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(f"The checkpoint {path} could not be deleted: {error.strerror or error}.") from error
