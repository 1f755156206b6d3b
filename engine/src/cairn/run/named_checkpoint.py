"""The checkpoint that a user names: a file, a directory of shards, a run (its best one), or an address."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn import opening
from cairn.errors import CheckpointError, MissingFileError, ResumeError
from cairn.remote import origin
from cairn.remote.address import is_address
from cairn.run.directory import RunDirectory
from cairn.store import links, manifest, names, shards
from cairn.store.catalog import Catalog
from cairn.types import Saved


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint on the disk, with what is known about it outside of its file."""

    path: Path
    """The file or the directory of shards, never a link."""
    saved: Saved | None = None
    """What its manifest says; None if it has none."""
    provenance: Mapping[str, Any] | None = None
    """Where its manifest says that it comes from: seed, commit, versions; None without one."""
    run: RunDirectory | None = None
    """The run directory that it lies in; None if it lies elsewhere."""


def find(named: str, folder: Path) -> NamedCheckpoint:
    """Return the checkpoint that a user names.

    Of a run directory, its directory of checkpoints, or the address of a run, it is the best one, or the newest if the
    run ranks none.

    Args:
        named: A file, a directory of shards, a link to one, a directory as above, or an address.
        folder: Where a checkpoint of an object store is put, once.

    Raises:
        CairnError: There is no such checkpoint, or it cannot be fetched.
    """
    path, run = (_fetched(named, folder), None) if is_address(named) else _chosen(Path(named))
    found = links.target(path)
    if not os.path.lexists(found):
        raise MissingFileError(f"There is no checkpoint {named}.")
    saved, provenance = _described(found)
    return NamedCheckpoint(found, saved, provenance, run or _run_of(found))


def _fetched(named: str, folder: Path) -> Path:
    run = origin.parse(named)
    if not run.is_newest or named.rstrip("/").endswith(".ckpt"):
        return origin.fetched(named, folder)
    try:
        return origin.fetched(f"{run.run}/checkpoints/{names.BEST}", folder)
    except MissingFileError:
        return origin.fetched(named, folder)


def _chosen(path: Path) -> tuple[Path, RunDirectory | None]:
    """Return the file that a path stands for, and the run if it is one; a directory stands for its best checkpoint."""
    if not path.is_dir() or shards.is_sharded(links.target(path)):
        return path, None
    run = RunDirectory(path) if RunDirectory(path).record_file.is_file() else None
    folder = run.checkpoints() if run else path
    for link in (names.BEST, names.LAST):
        if os.path.lexists(folder / link):
            return folder / link, run
    newest = Catalog(folder).newest()
    if newest is None:
        raise ResumeError(f"{path} is neither a checkpoint nor a run with checkpoints: name one of them.")
    return folder / newest.name, run


def _described(path: Path) -> tuple[Saved | None, Mapping[str, Any] | None]:
    proof = path.with_name(names.manifest_name(path.name))
    if names.parse_name(path.name) is None or not proof.is_file():
        return None, None
    try:
        text = opening.read_bytes(proof)
        return manifest.load(text), manifest.parse(text)["provenance"]
    except OSError as error:
        raise CheckpointError(f"{proof} cannot be read: {error.strerror or error}.") from error
    except CheckpointError as error:
        raise type(error)(f"{path} cannot be used: {error}.") from error


def _run_of(path: Path) -> RunDirectory | None:
    run = RunDirectory(path.parent.parent)
    return run if run.record_file.is_file() else None
