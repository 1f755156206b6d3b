"""A mirror as a directory of this machine that holds no data: what commands need to list a run.

Manifests, links and small run files are as in a run directory. Checkpoint files have the sizes of their objects and no
contents, so that they take no room: a missing object, or one of another size, is noticed as on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError, NewerFormatError, ResumeError
from cairn.remote import layout, listed, local_files, origin
from cairn.remote.address import Address
from cairn.remote.listed import Listed
from cairn.remote.objects import Objects
from cairn.remote.record import Record
from cairn.store import manifest, names

_SHOWN = ("run.json", "config.yaml", "starts.jsonl", "progress.json")
"""Run files that commands read."""
_LATER = json.dumps({"format": manifest.FORMAT + 1}).encode()
"""Stands for a manifest that a later version of Cairn has written."""


@dataclass(frozen=True)
class View:
    """A mirror, and the directory that stands for it as long as this object exists."""

    objects: Objects
    listed: Listed
    records: list[Record]
    """Oldest first."""
    run: Path

    @property
    def address(self) -> Address:
        """The mirror."""
        return self.objects.address

    @property
    def checkpoints(self) -> Path:
        """The directory that stands for the checkpoints."""
        return self.run / layout.CHECKPOINTS.rstrip("/")


def of(where: Address) -> View:
    """Make the view of a mirror.

    Args:
        where: Address of a run.

    Raises:
        ConfigError: The store refuses access.
        ResumeError: The store cannot be used, or there is no run at the address.
    """
    return origin.asked(where, _made)


def _made(objects: Objects) -> View:
    where = objects.address
    found = listed.look(objects)
    if found.is_empty:
        raise ResumeError(listed.nothing_at(objects, found))
    records, bad = listed.read_records(objects, found)
    folder = tempfile.mkdtemp(prefix="cairn-")
    view = View(objects, found, records, Path(folder) / where.name)
    weakref.finalize(view, shutil.rmtree, folder, ignore_errors=True)
    view.checkpoints.mkdir(parents=True)
    if records:
        _write_files(view, records[-1])
    for record in records:
        _write_checkpoint(view, record)
    for stem, why in bad.items():
        text = _LATER if isinstance(why, NewerFormatError) else b""
        _write(view.checkpoints / names.manifest_name(stem.name), text)
        _write_empty(view.checkpoints / stem.name, found.sizes.get(stem.data))
    _write_links(view)
    return view


def _write_files(view: View, record: Record) -> None:
    for item in record.files:
        if item.path in _SHOWN:
            try:
                _write(view.run / item.path, local_files.read(view.objects, item))
            except CheckpointError:  # it is shown as if it did not exist; `verify` names it
                continue


def _write_checkpoint(view: View, record: Record) -> None:
    if record.saved.shards:
        (view.checkpoints / record.saved.name).mkdir(exist_ok=True)
    for name, path, _ in layout.data_of(record.saved):
        _write_empty(view.checkpoints / path, view.listed.sizes.get(name))
    _write(view.checkpoints / names.manifest_name(record.saved.name), record.manifest.encode())


def _write_links(view: View) -> None:
    if view.records:
        os.symlink(view.records[-1].saved.name, view.checkpoints / names.LAST)
    best = origin.best(view.objects) if layout.BEST in view.listed.sizes else None
    if best in view.listed.stems and best is not None:
        os.symlink(best.name, view.checkpoints / names.BEST)


def _write(path: Path, data: bytes) -> None:
    with opening.new_file(path) as file:  # without a sync: a mirror may hold thousands, and the view is temporary
        file.write(data)


def _write_empty(path: Path, num_bytes: int | None) -> None:
    """Create a file of a size without contents; None: the object is missing."""
    if num_bytes is not None:
        _write(path, b"")
        opening.cut(path, num_bytes)
