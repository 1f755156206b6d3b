"""Downloads objects into files: in pieces, several at a time, so that one slow connection does not set the pace."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn import opening
from cairn.remote import bounded
from cairn.remote import objects as transfer
from cairn.remote.objects import Objects

_POLL_S = 0.2


@dataclass(frozen=True)
class Wanted:
    """An object, and where its bytes go."""

    name: str
    path: Path
    num_bytes: int
    offset: int = 0
    """Where in the file they begin: a file may consist of several objects."""


@dataclass(frozen=True)
class _Piece:
    wanted: Wanted
    start: int
    end: int


def download(objects: Objects, wanted: Sequence[Wanted], beat: Callable[[int], None] = lambda num_bytes: None) -> None:
    """Download objects into new files, which are on the disk afterwards. The bytes are not compared with a digest.

    Args:
        objects: The store.
        wanted: Objects with the sizes that a record says.
        beat: Called after each piece with its size in bytes, on several threads.

    Raises:
        RemoteError: An object is missing or shorter, or the store cannot be used.
        OSError: A file cannot be written.
    """
    paths = dict.fromkeys(item.path for item in wanted)
    for path in paths:
        with opening.new_file(path):
            pass
    pieces = [piece for item in wanted for piece in _pieces(item)]
    _Workers(objects, pieces, beat).run()
    for path in paths:
        handle = opening.for_writing(path)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _pieces(item: Wanted) -> list[_Piece]:
    size = transfer.CHUNK_BYTES
    return [_Piece(item, at, min(at + size, item.num_bytes)) for at in range(0, item.num_bytes, size)]


class _Workers:
    """Threads that take one piece after the other. They are daemons: a request that hangs does not keep the process."""

    def __init__(self, objects: Objects, pieces: Sequence[_Piece], beat: Callable[[int], None]) -> None:
        self._objects, self._beat = objects, beat
        self._left = deque(pieces)
        self._errors: list[BaseException] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        """Return when all pieces are written; raise the first error."""
        count = min(transfer.NUM_AT_ONCE, len(self._left))
        threads = [threading.Thread(target=self._work, name="cairn-download", daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive() and not self._errors:
                    bounded.check()
                    thread.join(_POLL_S)
        finally:
            self._stopped.set()
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    piece = self._left.popleft()
                except IndexError:
                    return
                self._write(piece)
        except BaseException as error:
            self._errors.append(error)

    def _write(self, piece: _Piece) -> None:
        data = self._objects.get_range(piece.wanted.name, piece.start, piece.end)
        if self._stopped.is_set():  # the file may be deleted by now
            return
        handle = opening.for_writing(piece.wanted.path)
        try:
            view, at = memoryview(data), piece.wanted.offset + piece.start
            while view:
                count = os.pwrite(handle, view, at)
                view, at = view[count:], at + count
        finally:
            os.close(handle)
        self._beat(len(data))
