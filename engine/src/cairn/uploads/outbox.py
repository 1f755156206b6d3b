"""The outbox: hard links to checkpoints that wait for their upload, so that retention may delete them meanwhile.

Of a directory of shards, the outbox holds a directory with a link to each shard.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError, CorruptCheckpointError
from cairn.known_directory import KnownDirectory
from cairn.store import disk, manifest, names
from cairn.types import Saved

log = logging.getLogger(__name__)


class Outbox:
    """A hidden folder in the checkpoint directory: on the same disk, where links cost nothing.

    One thread may add while another removes.

    Args:
        checkpoints: The checkpoint directory.
        folder: Name of the folder. Each destination of uploads has its own: what one has is not what the other has.
    """

    def __init__(self, checkpoints: Path, folder: str) -> None:
        self.checkpoints, self.directory = checkpoints, checkpoints / folder
        self._known = KnownDirectory.at_or_above(checkpoints)
        self._lock = threading.Lock()
        self._logged: set[str] = set()
        if self.directory.is_symlink():  # not made by us: what is in the folder behind it must stay
            self.directory.unlink()
        self._remove_leftovers()
        self._sizes = {saved.name: saved.num_bytes for saved in self.waiting()}

    @property
    def num_bytes(self) -> int:
        """Size of everything in it."""
        with self._lock:
            return sum(self._sizes.values())

    @property
    def held(self) -> frozenset[str]:
        """File names of the checkpoints in it."""
        with self._lock:
            return frozenset(self._sizes)

    def add(self, saved: Saved) -> Path:
        """Keep the bytes of a checkpoint. Where there are no hard links, they are copied.

        Args:
            saved: A checkpoint in the directory.

        Returns:
            The path of the bytes.

        Raises:
            OSError: This is not possible.
        """
        source, path = self.checkpoints / saved.name, self.path(saved.name)
        with self._lock:
            self._known = self._known.make(self.directory)
            self._drop(path)
            # The note comes first, and the file gets its name last. Whatever a kill leaves of this is recognised:
            # a file without a note is never found, and half a copy has another name.
            note = self._note(saved.name)
            try:
                note.unlink(missing_ok=True)
                link_or_copy(self.checkpoints / note.name, note)  # the manifest as it is, with its provenance
            except OSError:
                with opening.new_file(note) as file:
                    file.write(manifest.dump(saved, {}).encode())
            temp = self.directory / names.temp_name(path.name)
            try:
                if saved.shards:
                    disk.remove(temp)
                    os.mkdir(temp)
                    for item in saved.shards:
                        link_or_copy(source / item.name, temp / item.name)
                else:
                    link_or_copy(source, temp)
                temp.rename(path)
            except OSError:
                disk.remove(temp)
                self._note(saved.name).unlink(missing_ok=True)
                raise
            self._sizes[saved.name] = saved.num_bytes
        return path

    def text(self, name: str) -> bytes:
        """The manifest of a checkpoint in the outbox.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        return opening.read_bytes(self._note(name))

    def path(self, name: str) -> Path:
        """Where the bytes of a checkpoint are, if it is in the outbox."""
        return self.directory / name

    def remove(self, name: str) -> None:
        """Remove a checkpoint that was uploaded, or that is not wanted any more."""
        with self._lock, suppress(OSError):
            self._sizes.pop(name, None)
            self._drop(self.path(name))
            self._note(name).unlink(missing_ok=True)
            self.directory.rmdir()  # if it is empty

    def waiting(self) -> list[Saved]:
        """The checkpoints in it, oldest first."""
        found = []
        for note in sorted(path for path in self._files() if path.suffix == ".json"):
            if self.path(_checkpoint(note.name)).exists() and (saved := self._read(note)) is not None:
                found.append(saved)
        return found

    def _read(self, note: Path) -> Saved | None:
        """The checkpoint of a note; None if it cannot be read, which is logged once. Its bytes stay."""
        try:
            saved = manifest.load(opening.read_bytes(note))
            if saved.name != _checkpoint(note.name) or names.parse_name(saved.name) is None:
                raise CorruptCheckpointError("it belongs to another checkpoint")
            return saved
        except FileNotFoundError:  # another thread has just removed it
            return None
        except (OSError, CheckpointError) as error:
            if note.name not in self._logged:
                self._logged.add(note.name)
                log.error("%s cannot be read (%s): its checkpoint stays there and is not uploaded.", note, error)
            return None

    def _files(self) -> list[Path]:
        try:
            return list(self.directory.iterdir())
        except OSError:  # there is none, or another thread has just removed the last file
            return []

    def _remove_leftovers(self) -> None:
        """Remove what a kill has left of `add` and `remove`."""
        with suppress(OSError):
            there = {path.name for path in self._files()}
            for name in there:
                other = _checkpoint(name) if name.endswith(".json") else names.manifest_name(name)
                if other not in there:
                    _remove(self.directory / name)
            self.directory.rmdir()  # if it is empty

    def _drop(self, path: Path) -> None:
        """Delete a checkpoint. A directory loses its name first: a kill leaves no part of it that counts as whole."""
        if path.is_dir():
            hidden = self.directory / names.temp_name(path.name)
            disk.remove(hidden)
            path = path.rename(hidden)
        disk.remove(path)

    def _note(self, name: str) -> Path:
        return self.directory / names.manifest_name(name)


def _checkpoint(note: str) -> str:
    """The file name of the checkpoint that a note is about."""
    return note.removesuffix(".json") + ".ckpt"


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file another name; where there are no hard links, copy it.

    Args:
        source: The file.
        path: Its other name.

    Raises:
        OSError: This is not possible.
    """
    try:
        os.link(source, path)
    except OSError:
        if not source.exists():
            raise
        path.unlink(missing_ok=True)  # a link that has the name would be written through
        shutil.copyfile(source, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
