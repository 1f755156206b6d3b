"""Downloads objects into files: in pieces, several at a time, so that one slow connection does not set the pace."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn import opening
from cairn.remote import objects as transfer
from cairn.remote import parallel
from cairn.remote.objects import Objects


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

    def write(piece: _Piece, stopped: threading.Event) -> None:
        data = objects.get_range(piece.wanted.name, piece.start, piece.end)
        if not stopped.is_set():  # else the file may be deleted by now
            _write(piece, data)
            beat(len(data))

    parallel.each(write, [piece for item in wanted for piece in _pieces(item)], transfer.NUM_AT_ONCE)
    for path in paths:
        handle = opening.for_writing(path)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _pieces(item: Wanted) -> list[_Piece]:
    size = transfer.CHUNK_BYTES
    return [_Piece(item, at, min(at + size, item.num_bytes)) for at in range(0, item.num_bytes, size)]


def _write(piece: _Piece, data: bytes) -> None:
    handle = opening.for_writing(piece.wanted.path)
    try:
        view, at = memoryview(data), piece.wanted.offset + piece.start
        while view:
            count = os.pwrite(handle, view, at)
            view, at = view[count:], at + count
    finally:
        os.close(handle)
