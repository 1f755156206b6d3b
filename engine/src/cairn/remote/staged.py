"""A checkpoint of a mirror on its way into a directory, by the rules of a local commit.

    1  .epoch_000_batch_000150.ckpt.0123456789abcdef.tmp    downloaded and verified: `stage`
    2  epoch_000_batch_000150.ckpt                          renamed: `commit`
    3  epoch_000_batch_000150.json                          the manifest: COMMITTED

A crash leaves hidden names, and perhaps a file without a manifest, which the next download or start deletes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cairn.errors import CorruptCheckpointError, RemoteError, ResumeError
from cairn.remote import bounded, layout
from cairn.remote.download import Wanted, download
from cairn.remote.objects import Objects
from cairn.remote.record import Record
from cairn.store import catalog, disk, names
from cairn.store.commit import delete_checkpoint
from cairn.types import Saved
from cairn.units import format_bytes


@dataclass(frozen=True)
class Staged:
    """A checkpoint that is downloaded and verified, under a hidden name."""

    record: Record
    directory: Path
    hidden: Path

    @property
    def path(self) -> Path:
        """Where it will be."""
        return self.directory / self.record.saved.name

    def commit(self) -> Path:
        """Make it a checkpoint of the directory, in place of a damaged one of the same name; return its path."""
        bounded.check()
        if os.path.lexists(self.path):
            delete_checkpoint(self.directory, self.path.name)
        os.replace(self.hidden, self.path)
        disk.sync_directory(self.directory)
        disk.put(self.directory / names.manifest_name(self.path.name), self.record.manifest.encode())
        return self.path

    def discard(self) -> None:
        """Delete it."""
        with suppress(OSError):
            disk.remove(self.hidden)


def stage(
    objects: Objects, record: Record, directory: Path, beat: Callable[[int], None] = lambda num_bytes: None
) -> Staged:
    """Download a checkpoint under a hidden name, and compare it with the digests in its manifest.

    Args:
        objects: The mirror.
        record: The record of the checkpoint.
        directory: The checkpoint directory, which is created if it is missing.
        beat: Called with the size of each piece that has arrived, on several threads.

    Raises:
        CorruptCheckpointError: An object is missing, or differs from what was saved.
        ResumeError: The directory cannot be written, or has no room.
        RemoteError: The store cannot be used.
    """
    saved = record.saved
    made = Staged(record, directory, directory / names.attempt_name(saved.name, names.new_attempt()))
    try:
        _make_room(directory, saved)
        if saved.shards:
            disk.make_directory(made.hidden)
        wanted = [
            Wanted(name, made.hidden / Path(path).name if saved.shards else made.hidden, num_bytes)
            for name, path, num_bytes in layout.data_of(saved)
        ]
        download(objects, wanted, beat)
        if saved.shards:
            disk.sync_directory(made.hidden)
        catalog.verify(made.hidden, saved)
    except BaseException as error:
        made.discard()
        if isinstance(error, RemoteError):
            if error.kind == "missing":
                raise CorruptCheckpointError("an object of it is missing in the mirror, or is too short") from error
        elif isinstance(error, OSError):
            raise ResumeError(
                f"{directory} cannot be written: {error.strerror or error}. Free some space, or choose another one."
            ) from error
        raise
    return made


def is_there(directory: Path, saved: Saved) -> bool:
    """Whether a directory has this very checkpoint, by its manifest and its size."""
    here = described(directory / saved.name)
    return here is not None and here.digest == saved.digest


def described(path: Path) -> Saved | None:
    """Return what the manifest of a checkpoint says, if its size fits; None: it is missing or damaged."""
    try:
        return catalog.describe(path)
    except CorruptCheckpointError:
        return None


def _make_room(directory: Path, saved: Saved) -> None:
    disk.make_directory(directory)
    for path in directory.iterdir():  # a download of the same checkpoint that was killed
        if path.name.startswith(f".{saved.name}.") and names.is_temp(path.name):
            disk.remove(path)
    if saved.num_bytes > (free := disk.free_bytes(directory)):
        raise ResumeError(
            f"{saved.name} has {format_bytes(saved.num_bytes)}, and only {format_bytes(free)} are free in {directory}: "
            f"free some space, or choose another directory."
        )
