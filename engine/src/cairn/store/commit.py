"""Commit a checkpoint: the order in which its files appear, links move and old files are deleted.

      1  delete what makes room                a budget leaves no space for both
      2  epoch_000_batch_000150.ckpt           written to a hidden name, synced, renamed
      3  epoch_000_batch_000150.json           the manifest, in the same way: COMMITTED
      4  last.ckpt, best.ckpt                  links, each moved by a rename
      5  delete what no rule keeps

A crash between two steps leaves every committed checkpoint intact, and the newest one is still the newest; an earlier
one of the same name is put aside in 2 and deleted after 5, see earlier.py. A crash before 3 leaves a file without a
manifest, which is not a checkpoint. A crash after 3 leaves links or files that the next commit, or the next start of
the run, brings up to date.

Imports no torch: the writer process starts quickly and takes little memory.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cairn import opening
from cairn.errors import CheckpointError, SaveError
from cairn.store import disk, earlier, file_format, links, manifest, names, shard, sharded_commit
from cairn.store.claim import Permit
from cairn.store.deletion import delete_checkpoints
from cairn.store.shard import Report, ShardPlan
from cairn.store.write_error import why_not_written
from cairn.types import Draft, Saved, ShardFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommitPlan:
    """One checkpoint to write, and what changes around it."""

    directory: Path
    draft: Draft
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says about the origin of the run."""
    make_room: Sequence[str] = ()
    """Checkpoints to delete before the write, because a budget has no room for them and this one."""
    links: Mapping[str, str | None] = field(default_factory=dict)
    """Links to move after the commit, with their targets; None removes the link."""
    to_delete: Sequence[str] = ()
    """Checkpoints to delete last."""
    blocking: bool = False
    """True if training pauses until the commit."""
    permit: Permit | None = None
    """What is checked before anything is written or deleted; None: nothing."""
    retry: bool = False
    """True if the previous writer died while it worked on this plan, possibly after the commit."""
    shard: ShardPlan | None = None
    """Rank 0's part, if each rank writes a shard; None: the checkpoint is a single file."""
    abandoned: Sequence[str] = ()
    """What stops late ranks in attempts that failed; not needed any more once all ranks have written a later shard."""

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return self.draft.name


@dataclass(frozen=True)
class Committed:
    """The result of a plan whose checkpoint was committed."""

    saved: Saved
    cleanup_error: str = ""
    """Why a link was not moved or a file not deleted after the commit; empty if all went well."""


def write(
    plan: CommitPlan,
    view: memoryview,
    beat: Callable[[int], None] = lambda num_bytes: None,
    has_ended: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = log.warning,
) -> Committed:
    """Carry out a plan.

    Args:
        plan: What to do.
        view: The whole file in memory; the checksums of its records are filled in here.
        beat: Called repeatedly with the number of bytes written so far.
        has_ended: Whether the training has ended or failed: other ranks may have died.
        warn: Called with a sentence if the shard of another rank is late.

    Returns:
        The committed checkpoint.

    Raises:
        SaveError: The checkpoint could not be written; nothing of it is left.
    """
    if plan.permit is not None:
        plan.permit.check(plan.draft.name)
    saved = _committed_before(plan, len(view)) if plan.retry and plan.shard is None else None
    if saved is None:
        delete_checkpoints(plan.directory, plan.make_room)
        if plan.shard is None:
            saved = _write(plan, view, beat)
        else:
            reports = functools.partial(sharded_commit.wait_for_reports, plan.shard, beat, has_ended, warn)
            saved = _write_shards(plan, plan.shard, view, beat, reports)
    try:
        move_links_and_delete(plan.directory, plan.links, plan.to_delete)
        _delete_earlier(plan.directory / plan.name)
    except SaveError as error:
        return Committed(saved, str(error))
    return Committed(saved)


def _committed_before(plan: CommitPlan, num_bytes: int) -> Saved | None:
    """Return what the previous writer committed of this plan, if it did."""
    # Writing it again would risk it: its predecessors may be deleted by now.
    path, draft = plan.directory / plan.draft.name, plan.draft
    try:
        found = manifest.load(opening.read_bytes(path.with_name(names.manifest_name(draft.name))))
        size = opening.check(path)
    except (OSError, CheckpointError):
        return None
    return found if _is_of(found, draft) and size == found.num_bytes == num_bytes else None


def _is_of(found: Saved, draft: Draft) -> bool:
    return (found.run, found.position, found.elapsed_s) == (draft.run, draft.position, draft.elapsed_s)


def _write(plan: CommitPlan, view: memoryview, beat: Callable[[int], None]) -> Saved:
    started, draft = time.monotonic(), plan.draft
    path = plan.directory / draft.name
    chunks = file_format.sealed(view, disk.CHUNK_BYTES)
    before = _identity(path)

    def make_way() -> None:
        if plan.permit is not None:
            plan.permit.check(draft.name)  # again: a large file may take minutes
        earlier.put_aside(path)

    try:
        disk.put_chunks(path, chunks, len(view), beat, make_way)
        written_s = time.monotonic() - started
        saved = Saved.of(
            draft,
            num_bytes=len(view),
            digest=file_format.digest(view),
            stall_s=draft.stall_s + (written_s if plan.blocking else 0.0),
            write_s=written_s,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if plan.permit is not None:
            plan.permit.check(draft.name)
        proof = manifest.dump(saved, plan.provenance).encode()
        disk.put(path.with_name(names.manifest_name(draft.name)), proof)
    except SaveError:  # the directory is another one now, or belongs to another process: nothing is deleted there
        raise
    except OSError as error:
        with suppress(OSError):
            if earlier.is_aside(path):
                earlier.settle(path)
            elif before is None or _identity(path) != before:  # else it is an earlier one, which is still committed
                delete_checkpoint(plan.directory, draft.name)
        raise SaveError(why_not_written(path, error, len(view))) from error
    return saved


def _write_shards(
    plan: CommitPlan,
    own: ShardPlan,
    view: memoryview,
    beat: Callable[[int], None],
    wait_for_reports: Callable[[], list[Report]],
) -> Saved:
    started, draft = time.monotonic(), plan.draft
    try:
        if plan.retry and (saved := sharded_commit.prepared(own, lambda found: _is_of(found, draft))) is not None:
            if os.path.lexists(plan.directory / names.temp_name(names.manifest_name(draft.name))):
                sharded_commit.finish(own)
            return saved
        shard.write(replace(own, retry=plan.retry), view, beat)
        reports = wait_for_reports()
        written_s = time.monotonic() - started
        shards = tuple(ShardFile(names.shard_name(item.rank), item.num_bytes, item.digest) for item in reports)
        saved = Saved.of(
            draft,
            num_bytes=sum(item.num_bytes for item in shards),
            digest=manifest.digest_of(shards),
            stall_s=draft.stall_s + (written_s if plan.blocking else 0.0),
            write_s=written_s,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            shards=shards,
        )
        if plan.permit is not None:
            plan.permit.check(draft.name)  # shards may take minutes
        sharded_commit.publish(own, saved, manifest.dump(saved, plan.provenance).encode())
    except SaveError:
        sharded_commit.discard(own)
        raise
    except OSError as error:
        with suppress(OSError):  # a SaveError is one
            _take_back(own)
        raise SaveError(why_not_written(plan.directory / draft.name, error, len(view))) from error
    for name in plan.abandoned:
        with suppress(OSError):
            disk.remove(plan.directory / name)
    return saved


def _take_back(own: ShardPlan) -> None:
    """Delete what a commit has left that failed on its way."""
    path = own.directory / own.name
    is_renamed = not own.folder.is_dir()
    if not is_renamed:
        sharded_commit.discard(own)
    if earlier.is_aside(path):
        earlier.settle(path)
    elif is_renamed:
        delete_checkpoint(own.directory, own.name)
    disk.remove(own.directory / names.temp_name(names.manifest_name(own.name)))


def _delete_earlier(path: Path) -> None:
    try:
        earlier.delete(path)
    except OSError as error:
        raise _failed(f"The earlier checkpoint that {path} has replaced could not be deleted", error) from error


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.lstat(path)
        return found.st_dev, found.st_ino
    return None


def move_links_and_delete(directory: Path, links: Mapping[str, str | None], to_delete: Sequence[str]) -> None:
    """Move the links, then delete: a link never dangles.

    Args:
        directory: Where both are.
        links: Links with their new targets; None removes the link.
        to_delete: Checkpoints to delete.

    Raises:
        SaveError: A step failed; those after it were not tried.
    """
    for name, target in links.items():
        move_link(directory, name, target)
    delete_checkpoints(directory, to_delete)


def move_link(directory: Path, name: str, target: str | None) -> None:
    """Make a link point to `target` in one step; None removes it.

    Raises:
        SaveError: The link could not be moved, and points to its previous target.
    """
    path = directory / name
    try:
        if target is None:
            disk.remove(path)
        else:
            links.move(path, target)
    except OSError as error:
        raise _failed(f"The link {path} could not be moved to {target}", error) from error


def delete_checkpoint(directory: Path, name: str) -> None:
    """Delete a checkpoint and its manifest, as `delete_checkpoints` does."""
    delete_checkpoints(directory, [name])


def _failed(what: str, error: OSError) -> SaveError:
    return SaveError(f"{what}: {error.strerror or error}.")
