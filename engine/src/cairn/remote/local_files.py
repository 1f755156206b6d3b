"""Run files that come from a mirror: configuration, record, attempts, metrics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from cairn import opening
from cairn.errors import CorruptCheckpointError, RemoteError, ResumeError
from cairn.remote.download import Wanted, download
from cairn.remote.objects import Objects
from cairn.remote.record import RunFile
from cairn.store import disk

RECORD = "run.json"
CONFIG = "config.yaml"
_OWN = (RECORD, CONFIG, "progress.json", "starts.jsonl")
"""Files that say what this directory is: those that are here stay, if a run has started here and is as far."""
_OF_THIS_START = ("train.log", ".hydra/")
"""Hydra has written these files just now. They always stay."""


def bring(objects: Objects, files: Sequence[RunFile], run: Path, replaces_own: bool = False) -> list[str]:
    """Write the run files that a directory lacks, and those that reach further than its own.

    Metrics are cut to the position of the checkpoint when the run goes on, so that they may be longer than needed, but
    never shorter.

    Args:
        objects: The mirror.
        files: The run files of a record.
        run: The run directory.
        replaces_own: The run has gone on elsewhere: what says what it is comes from there.

    Returns:
        Paths of the files that were written.

    Raises:
        CorruptCheckpointError: An object is missing or damaged.
        ResumeError: A file cannot be written.
        RemoteError: The store cannot be used.
    """
    written, keeps_own = list[str](), (run / RECORD).exists() and not replaces_own
    for item in sorted(files, key=lambda item: item.path == RECORD):  # the record last: it makes this the run
        path = run / item.path
        try:
            if _stays(path, item, keeps_own):
                continue
            disk.make_directory(path.parent)
            with disk.renamed_at_end(path) as temp:
                download_file(objects, item, temp)
            written.append(item.path)
        except RemoteError:  # it is an OSError, too
            raise
        except OSError as error:
            raise ResumeError(f"{path} cannot be written: {error.strerror or error}. Check the disk.") from error
    return written


def read(objects: Objects, item: RunFile) -> bytes:
    """Return the contents of a small run file.

    Raises:
        CorruptCheckpointError: An object is missing or damaged.
        RemoteError: The store cannot be used.
    """
    try:
        data = b"".join(objects.get(part.object, part.num_bytes) for part in item.parts)
    except RemoteError as error:
        if error.kind != "missing":
            raise
        raise CorruptCheckpointError(f"the run file {item.path} is missing in the mirror") from error
    if hashlib.sha256(data).hexdigest() != item.digest:
        raise CorruptCheckpointError(f"the run file {item.path} is damaged in the mirror")
    return data


def download_file(objects: Objects, item: RunFile, path: Path) -> None:
    """Download a run file into a new file, and compare it with its digest.

    Raises:
        CorruptCheckpointError: An object is missing or damaged.
        RemoteError: The store cannot be used.
        OSError: The file cannot be written.
    """
    wanted, offset = [], 0
    for part in item.parts:
        wanted.append(Wanted(part.object, path, part.num_bytes, offset))
        offset += part.num_bytes
    if not wanted:
        with opening.new_file(path):
            pass
    try:
        download(objects, wanted)
    except RemoteError as error:
        if error.kind != "missing":
            raise
        raise CorruptCheckpointError(f"the run file {item.path} is missing in the mirror") from error
    with opening.for_reading(path) as file:
        if _sha256(file, item.num_bytes) != item.digest:
            raise CorruptCheckpointError(f"the run file {item.path} is damaged in the mirror")


def _stays(path: Path, item: RunFile, keeps_own: bool) -> bool:
    """Whether the local file is kept: it says what happened here, or it contains all of the other one."""
    if not os.path.lexists(path):
        return False
    if (item.path in _OWN and keeps_own) or item.path.startswith(_OF_THIS_START):
        return True
    if opening.check(path) < item.num_bytes:
        return False
    with opening.for_reading(path) as file:
        return _sha256(file, item.num_bytes) == item.digest


def _sha256(file: BinaryIO, num_bytes: int) -> str:
    """SHA-256 of the first bytes of a file."""
    found = hashlib.sha256()
    while num_bytes and (data := file.read(min(num_bytes, disk.CHUNK_BYTES))):
        found.update(data)
        num_bytes -= len(data)
    return found.hexdigest()
