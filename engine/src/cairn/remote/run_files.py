"""Run files: what a run needs to go on besides its checkpoint. They are uploaded in pieces.

    metrics.csv at the first record    [ a b c ]
    a little later                     [ a b c ] [ d ]            only the new piece is uploaded
    later still                        [ a b c ] [ d e f g ]      small pieces at the end are merged

A piece that is not smaller than what follows it stays as it is, so a file of n rows has about log n pieces.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cairn import opening
from cairn.errors import RemoteError
from cairn.remote import layout
from cairn.remote.record import Part, RunFile
from cairn.store import names
from cairn.units import format_bytes
from cairn.uploads.once import ErrorsOnce

PIECE_BYTES = 2**23
"""Largest piece of a run file, which is in memory while it is uploaded."""
LARGEST_BYTES = 2**27
"""Larger files are left out, unless they only grow: a file that changes is uploaded again with every checkpoint."""
MOST_FILES = 1000
"""More files are left out: a record lists all of them."""
_GROWING = (".csv", ".jsonl", ".log")
_EVENTS = "events.out.tfevents."
_HYDRA = ".hydra"
_START = "start"
"""Folder with the checkpoint that the run started from, which is not needed from the first own checkpoint on."""
_TRACKERS = ("wandb", "mlflow", "trackio")
_TAIL_BYTES = 4096


@dataclass
class _Known:
    """A file as it was uploaded last."""

    identity: tuple[int, ...]
    file: RunFile
    parts: list[Part] = field(default_factory=list)
    hasher: Any = None
    tail: bytes = b""
    """Its last bytes: if they are not there any more, the file was changed, and not only continued."""


class RunFiles:
    """Uploads the files of a run directory.

    Args:
        folder: The run directory; None: no files travel.
        checkpoints: The checkpoint directory, which may be in it.
        errors: Logs which files are left out.
    """

    def __init__(self, folder: Path | None, checkpoints: Path, errors: ErrorsOnce) -> None:
        self._folder, self._checkpoints, self._errors = folder, checkpoints, errors
        self._known: dict[str, _Known] = {}
        self._before: dict[str, RunFile] = {}

    def begin(self, files: Iterable[RunFile]) -> None:
        """Take the files of the newest record: pieces that did not change are not uploaded again."""
        self._before = {item.path: item for item in files}

    def upload(
        self, put: Callable[[str, bytes], None], has: Callable[[str, int], bool] = lambda name, num_bytes: True
    ) -> list[RunFile]:
        """Upload what has changed since the last time.

        Args:
            put: Uploads an object, unless the mirror has it already.
            has: Whether the mirror has an object of this size. A piece that was deleted there is uploaded again.

        Returns:
            All files as they are now.
        """
        found = []
        for path in self._listed():
            try:
                found.append(self._upload(path, put, has))
            except RemoteError:  # it is an OSError, too
                raise
            except OSError as error:
                if not isinstance(error, FileNotFoundError):  # else it was deleted meanwhile
                    self._errors.log("file", f"{path} could not be read ({error.strerror or error}): it is left out")
        present = {item.path for item in found}
        self._known = {path: known for path, known in self._known.items() if path in present}
        return found

    def _listed(self) -> Sequence[Path]:
        if self._folder is None:
            return ()
        found = sorted(_files(self._folder, self._folder, self._checkpoints), key=lambda path: (len(path.parts), path))
        if len(found) > MOST_FILES:
            text = f"{self._folder} holds {len(found)} files: only {MOST_FILES} of them are mirrored"
            self._errors.log("number of files", text)
        return found[:MOST_FILES]

    def _upload(self, path: Path, put: Callable[[str, bytes], None], has: Callable[[str, int], bool]) -> RunFile:
        assert self._folder is not None
        name = path.relative_to(self._folder).as_posix()
        with opening.for_reading(path) as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(name)
            if known is not None and not all(has(part.object, part.num_bytes) for part in known.parts):
                known = None
            if known is not None and known.identity == identity:
                return known.file
            grows = path.suffix in _GROWING or path.name.startswith(_EVENTS)
            if status.st_size > LARGEST_BYTES and not grows:
                size = format_bytes(status.st_size)
                self._errors.log(f"size of {name}", f"{path} is not mirrored: it is too large for a run file ({size})")
                raise FileNotFoundError
            known = known if grows and known is not None and _continues(file, known, identity) else None
            known = known or self._of_record(file, name, status.st_size, has) or _Known(identity, _empty(name))
            _append(file, known, status.st_size, put)
        known.identity = identity
        known.file = RunFile(name, status.st_size, known.hasher.hexdigest(), tuple(known.parts))
        self._known[name] = known
        return known.file

    def _of_record(self, file: BinaryIO, name: str, num_bytes: int, has: Callable[[str, int], bool]) -> _Known | None:
        """Return the pieces of the newest record that the file still begins with; None if it has none."""
        before = self._before.pop(name, None)
        if before is None:
            return None
        found = _Known((), before, hasher=hashlib.sha256())
        file.seek(0)
        for part in before.parts:
            if not has(part.object, part.num_bytes):
                break
            piece = file.read(part.num_bytes) if part.num_bytes <= min(num_bytes, PIECE_BYTES) else b""
            if len(piece) != part.num_bytes or layout.part_name(hashlib.sha256(piece).hexdigest()) != part.object:
                break
            found.parts.append(part)
            found.hasher.update(piece)
            num_bytes -= part.num_bytes
        return found


def _files(folder: Path, run: Path, checkpoints: Path) -> Iterator[Path]:
    """Yield the files below a folder, except for those that a resume does not need."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # deleted meanwhile
        return
    for entry in entries:
        path = Path(entry.path)
        if (entry.name.startswith(".") and entry.name != _HYDRA) or entry.name == names.PROBE:
            continue
        if entry.is_dir(follow_symlinks=False):
            is_skipped = _is_same(path, checkpoints) or (folder == run and entry.name == _START)
            # Clients of trackers have their own files in folders; those of the run lie next to them.
            if not is_skipped and not (folder.parent == run and folder.name in _TRACKERS):
                yield from _files(path, run, checkpoints)
        elif entry.is_file(follow_symlinks=False):
            yield path


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one directory: either may be relative, or go through a link."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _continues(file: BinaryIO, known: _Known, identity: tuple[int, ...]) -> bool:
    """Whether a file was only continued since it was uploaded."""
    if known.identity[:2] != identity[:2] or known.identity[2] > identity[2]:
        return False
    file.seek(known.identity[2] - len(known.tail))
    return file.read(len(known.tail)) == known.tail


def _append(file: BinaryIO, known: _Known, num_bytes: int, put: Callable[[str, bytes], None]) -> None:
    """Upload what follows the pieces that are known, merged with small ones before it."""
    hasher = hashlib.sha256() if known.hasher is None else known.hasher.copy()  # an upload may fail
    hashed = sum(part.num_bytes for part in known.parts)
    start, parts = hashed, list(known.parts)
    while parts and parts[-1].num_bytes <= min(num_bytes - start, PIECE_BYTES // 2):
        start -= parts.pop().num_bytes
    file.seek(start)
    for first in range(start, num_bytes, PIECE_BYTES):
        piece = file.read(min(PIECE_BYTES, num_bytes - first))
        if len(piece) < min(PIECE_BYTES, num_bytes - first):
            raise FileNotFoundError  # it is being shortened: the next record has it
        part = Part(layout.part_name(hashlib.sha256(piece).hexdigest()), len(piece))
        put(part.object, piece)
        parts.append(part)
        hasher.update(piece[max(0, hashed - first) :])
    known.parts, known.hasher = parts, hasher
    file.seek(max(0, num_bytes - _TAIL_BYTES))
    known.tail = file.read(min(num_bytes, _TAIL_BYTES))


def _empty(name: str) -> RunFile:
    return RunFile(name, 0, "", ())
