"""Journal: a file of JSON lines to which records are appended, and which a kill at any moment leaves readable."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cairn import opening, records
from cairn.records import RecordError

_END = b"\n"


def append(path: Path, *records: Any, sync: bool = False) -> None:
    """Append records, each as one line of JSON. One process at a time may append to a file.

    Args:
        path: Journal file. It is created if it is missing; its directory is not.
        *records: Mappings or sequences of JSON values. Half of such a line is never valid JSON, unlike half a number.
        sync: Wait until the records would survive a power cut. A kill loses nothing that this function has written,
            so `sync` is for records that are read by other machines or are needed after a crash of this one.

    Raises:
        OSError: The records could not be written; no part of them is left in the file.
    """
    lines = b"".join(json.dumps(record).encode() + _END for record in records)
    with opening.for_appending(path) as file:
        num_bytes = file.seek(0, os.SEEK_END)
        # A kill in an earlier append may have left half a line: what comes now must not become a part of it.
        if num_bytes and os.pread(file.fileno(), 1, num_bytes - 1) != _END:
            lines = _END + lines
        try:
            if file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if sync:
                os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), num_bytes)
            raise


def read(path: Path, on_skip: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """Yield the records of a journal in their order. Lines that a kill cut off or that are damaged are skipped.

    Args:
        path: Journal file.
        on_skip: Called for each line that is skipped.

    Raises:
        OSError: The file is missing or cannot be read.
    """
    for line in opening.lines(path):
        try:
            yield records.parse(line)
        except RecordError:
            on_skip()
