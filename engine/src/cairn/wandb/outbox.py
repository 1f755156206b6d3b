"""The outbox: hard links to checkpoints that are still to be uploaded, so that deleting one loses no upload."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from cairn.errors import CheckpointError
from cairn.store import manifest, names
from cairn.types import Saved

log = logging.getLogger(__name__)


class Outbox:
    """A hidden folder beside the checkpoints: on the same disk, where links cost nothing.

    One thread puts things in, another takes them out.

    Args:
        directory: of the checkpoints.
    """

    def __init__(self, directory: Path) -> None:
        self.checkpoints, self.directory = directory, directory / names.OUTBOX
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._clear()
        self._sizes = {saved.name: saved.num_bytes for saved in self.waiting()}

    @property
    def num_bytes(self) -> int:
        """Of all that is in it."""
        with self._lock:
            return sum(self._sizes.values())

    def put(self, saved: Saved) -> Path:
        """Keep the bytes of a checkpoint, and say which they are; where there are no hard links, as a copy.

        Raises:
            OSError: that is not possible.
        """
        source, place = self.checkpoints / saved.name, self.path(saved.name)
        with self._lock:
            self.directory.mkdir(exist_ok=True)
            _remove(place)
            # Whatever a kill leaves: without a note nobody would find the file, and half a copy is not called so.
            self._note(saved.name).write_text(manifest.dump(saved, {}))
            try:
                self._hold(source, place)
            except OSError:
                _remove(self._note(saved.name))
                raise
            self._sizes[saved.name] = saved.num_bytes
        return place

    def _hold(self, source: Path, place: Path) -> None:
        temp = self.directory / names.temp_name(place.name)
        try:
            if source.is_dir():  # a sharded one
                shutil.copytree(source, temp, copy_function=_link)
            else:
                _link(source, temp)
            temp.rename(place)
        except OSError:
            _remove(temp)
            raise

    def path(self, name: str) -> Path:
        """Where the bytes of a checkpoint lie, if they do."""
        return self.directory / name

    def drop(self, name: str) -> None:
        """They have arrived, or nobody wants them."""
        with self._lock, suppress(OSError):
            self._sizes.pop(name, None)
            _remove(self.path(name))
            _remove(self._note(name))
            self.directory.rmdir()  # if it is empty

    def waiting(self) -> list[Saved]:
        """What is in it, oldest first."""
        found = []
        for note in sorted(path for path in self._files() if path.suffix == ".json"):
            if self.path(_checkpoint(note.name)).exists() and (saved := self._read(note)) is not None:
                found.append(saved)
        return found

    def _read(self, note: Path) -> Saved | None:
        """None: that is not possible, which is told once; what it is about stays, and somebody may look at it."""
        try:
            return manifest.load(note.read_bytes())
        except FileNotFoundError:  # another thread has just dropped it
            return None
        except (OSError, CheckpointError) as error:
            if note.name not in self._told:
                self._told.add(note.name)
                log.error("%s cannot be read (%s): what it is about stays there, and is not uploaded.", note, error)
            return None

    def _files(self) -> list[Path]:
        try:
            return list(self.directory.iterdir())
        except OSError:  # there is none, or, since another thread has just emptied it, no longer
            return []

    def _clear(self) -> None:
        """Let nothing take room for ever that nobody will send: what a kill has left in the middle."""
        with suppress(OSError):
            there = {path.name for path in self._files()}
            for name in there:
                other = _checkpoint(name) if name.endswith(".json") else names.manifest_name(name)
                if other not in there:
                    _remove(self.directory / name)
            self.directory.rmdir()  # if it is empty

    def _note(self, name: str) -> Path:
        return self.directory / names.manifest_name(name)


def _checkpoint(note: str) -> str:
    """Whose note this is."""
    return note.removesuffix(".json") + ".ckpt"


def _link(source: str | Path, place: str | Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        if not os.path.exists(source):
            raise
        shutil.copyfile(source, place)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
