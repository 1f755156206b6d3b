"""HOW a checkpoint gets to disk: the file, whole and synced, its manifest the same way, then links, then deletions.

Whatever happens between two of these steps, what was committed before stays whole and stays the newest. Without torch:
a process that does nothing else starts in no time and takes no memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cairn.errors import CheckpointError, SaveError
from cairn.store import disk, file_format, manifest, names
from cairn.store.write_error import why_not_written
from cairn.types import Saved


@dataclass(frozen=True)
class Job:
    """One checkpoint to write, and what changes around it."""

    directory: Path
    draft: Saved
    """Its manifest, but for what only the write knows."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    room: Sequence[str] = ()
    """Checkpoints to delete before, because a budget has no room for them and this one."""
    links: Mapping[str, str | None] = field(default_factory=dict)
    """Link to target, to be moved when it is committed; None removes the link."""
    gone: Sequence[str] = ()
    """Checkpoints to delete at last."""
    blocking: bool = False
    """Training stands still meanwhile."""
    again: bool = False
    """Who was asked first has died over it, perhaps when all was done but to say so."""


@dataclass(frozen=True)
class Result:
    """What became of a job that has committed its checkpoint."""

    saved: Saved
    untidy: str = ""
    """Why a link was not moved, or something not deleted, afterwards; empty if all was."""


def perform(job: Job, view: memoryview, beat: Callable[[int], None] = lambda num_bytes: None) -> Result:
    """Commit the file that is put together in `view`.

    Args:
        job: what to do, in which order.
        view: the whole file; the checksums of its records are filled in.
        beat: told again and again how many bytes have been written.

    Raises:
        SaveError: it could not be written, and nothing is left of it.
    """
    saved = _done(job, len(view)) if job.again else None
    if saved is None:
        for name in job.room:
            remove(job.directory, name)
        saved = _write(job, view, beat)
    try:
        settle(job.directory, job.links, job.gone)
    except SaveError as error:
        return Result(saved, str(error))
    return Result(saved)


def _done(job: Job, num_bytes: int) -> Saved | None:
    """What is committed of this very job. To write that anew would risk it: what came before may be deleted by now."""
    path, draft = job.directory / job.draft.name, job.draft
    try:
        found = manifest.load(path.with_name(names.manifest_name(draft.name)).read_bytes())
        size = path.stat().st_size
    except (OSError, CheckpointError):
        return None
    same = (found.run, found.position, found.elapsed_s) == (draft.run, draft.position, draft.elapsed_s)
    return found if same and size == found.num_bytes == num_bytes else None


def _write(job: Job, view: memoryview, beat: Callable[[int], None]) -> Saved:
    started, draft = time.monotonic(), job.draft
    path = job.directory / draft.name
    before = _identity(path)
    try:
        _make_directory(job.directory)
        disk.put_chunks(path, file_format.sealed(view, disk.CHUNK_BYTES), len(view), beat)
        written = time.monotonic() - started
        saved = replace(
            draft,
            num_bytes=len(view),
            digest=file_format.digest(view),
            stall_s=draft.stall_s + (written if job.blocking else 0.0),
            write_s=written,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        proof = manifest.dump(saved, job.provenance).encode()
        disk.put(path.with_name(names.manifest_name(draft.name)), proof)
    except OSError as error:
        if before is None or _identity(path) != before:  # if not, what was committed under this name is still whole
            with suppress(SaveError):
                remove(job.directory, draft.name)
        raise SaveError(why_not_written(path, error, len(view))) from error
    return saved


def _identity(path: Path) -> tuple[int, int] | None:
    """Of the file that lies there."""
    with suppress(OSError):
        found = os.lstat(path)
        return found.st_dev, found.st_ino
    return None


def settle(directory: Path, links: Mapping[str, str | None], gone: Sequence[str]) -> None:
    """Move the links; then delete.

    Raises:
        SaveError: one of that failed, and what comes after it was not tried.
    """
    for name, target in links.items():
        link(directory, name, target)
    for name in gone:
        remove(directory, name)


def link(directory: Path, name: str, target: str | None) -> None:
    """Let a link point to `target`, in one step; None removes it.

    Raises:
        SaveError: it could not be moved, and points to where it did.
    """
    path = directory / name
    try:
        if target is None:
            disk.remove(path)
        else:
            disk.link(path, target)
    except OSError as error:
        raise _failed(f"The link {path} could not be moved to {target}", error) from error


def remove(directory: Path, name: str) -> None:
    """Delete a checkpoint with its manifest, so that half a deletion is no checkpoint and is known for what it is.

    Raises:
        SaveError: it could not be deleted.
    """
    path = directory / name
    try:
        disk.remove_pair(path, path.with_name(names.manifest_name(name)))
    except OSError as error:
        raise _failed(f"The checkpoint {path} could not be deleted", error) from error


def _failed(what: str, error: OSError) -> SaveError:
    return SaveError(f"{what}: {error.strerror or error}.")


def _make_directory(directory: Path) -> None:
    """If somebody deleted it; not what is above it, too: where a disk is not mounted any more, there is no going on."""
    if not directory.exists():
        os.mkdir(directory)
        disk.sync_directory(directory.parent)
