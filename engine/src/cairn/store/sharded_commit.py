"""Commit a checkpoint of which each rank has written a shard: rank 0's writer does this once all shards are there.

      1  the shard of rank 0, and its report           like every other rank
      2  wait for the reports of all ranks             of this attempt only
      3  .epoch_000_batch_000150.json.tmp              the manifest, synced: from here on a retry finishes the commit
      4  the reports and the lock are deleted
      5  .epoch_000_batch_000150.ckpt.ATTEMPT.tmp  ->  epoch_000_batch_000150.ckpt      and the directory is synced
      6  the manifest is renamed                       COMMITTED

A crash before 6 leaves a directory without a manifest, which is not a checkpoint. An earlier checkpoint of the same
name is put aside between 4 and 5, see earlier.py: nothing is ever written into the directory of a committed one.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError, SaveError
from cairn.store import disk, earlier, manifest, names, shard, sign_of_life
from cairn.store.hang_reports import name_ranks
from cairn.store.shard import Report, ShardPlan
from cairn.types import Saved

log = logging.getLogger(__name__)

SILENCE_S = 120.0
"""Give up after this time without progress of any shard, in seconds, if a missing one shows no sign of life."""
SILENCE_AFTER_END_S = 10.0
"""The same once the training of rank 0 has ended, for ranks that may have died: they have not begun to write, or their
writer was seen at work and is gone."""
_POLL_S, _LONGEST_POLL_S = 0.01, 0.5


class Incomplete(SaveError):
    """A shard is missing; the message is a sentence."""


@dataclass
class Progress:
    """The shards that are being written, as rank 0's writer sees them grow."""

    sizes: Mapping[str, int]
    since_s: float
    at_work: set[int] = field(default_factory=set)
    """Ranks whose writer was seen at work: the file system shows when it dies."""

    def look(self, folder: Path) -> bool:
        """Look at the directory; return whether something has changed."""
        if (sizes := _sizes(folder)) == self.sizes:
            return False
        self.sizes, self.since_s = sizes, time.monotonic()
        return True


def wait_for_reports(
    plan: ShardPlan,
    beat: Callable[[int], None] = lambda num_bytes: None,
    has_ended: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = log.warning,
) -> list[Report]:
    """Wait until the writers of all ranks have reported.

    A writer that is at work is waited for without a limit: its disk may be slow.

    Args:
        plan: Rank 0's own part.
        beat: Called repeatedly with the number of bytes that all ranks have written so far.
        has_ended: Whether the training of rank 0 has ended or failed.
        warn: Called once, with a sentence, if a writer at work makes no progress.

    Returns:
        The reports, in the order of the ranks.

    Raises:
        Incomplete: A rank has failed or holds other tensors, or has shown no sign of life for too long.
    """
    found: dict[int, Report] = {}
    progress, poll_s, has_warned = Progress({}, time.monotonic()), _POLL_S, False
    while True:
        if progress.look(plan.folder):
            poll_s = _POLL_S
            beat(sum(size for name, size in progress.sizes.items() if ".ckpt" in name))
        for rank in range(plan.world_size):
            if rank not in found and names.report_name(rank) in progress.sizes:
                _take(plan, rank, progress, found)
        if len(found) == plan.world_size:
            return [found[rank] for rank in range(plan.world_size)]
        if (late := _patience(plan, found, progress, has_ended())) and not has_warned:
            has_warned = True
            warn(late)
        time.sleep(poll_s)
        poll_s = min(2 * poll_s, _LONGEST_POLL_S)


def publish(plan: ShardPlan, saved: Saved, proof: bytes) -> None:
    """Make the directory of the attempt a checkpoint.

    Args:
        plan: Rank 0's own part.
        saved: The checkpoint.
        proof: Its manifest.

    Raises:
        OSError: A step failed.
    """
    if not _is_complete(plan.folder, plan):
        raise FileNotFoundError(errno.ENOENT, "its shards are gone", str(plan.folder))
    hidden = plan.directory / names.temp_name(names.manifest_name(saved.name))
    disk.put_hidden(hidden, proof)
    finish(plan)


def finish(plan: ShardPlan) -> None:
    """Do what follows on the hidden manifest; again after a kill in the middle of it.

    Raises:
        OSError: A step failed.
    """
    directory, path = plan.directory, plan.directory / plan.name
    proof = directory / names.manifest_name(plan.name)
    # Else it was renamed before, and a writer that died has perhaps made it again for its own shard.
    if _is_complete(plan.folder, plan):
        for name in (*map(names.report_name, range(plan.world_size)), names.WRITERS):
            disk.remove(plan.folder / name)
        disk.sync_directory(plan.folder)
        earlier.put_aside(path)
        os.replace(plan.folder, path)
    elif not _is_complete(path, plan):
        raise FileNotFoundError(errno.ENOENT, "its shards are gone", str(path))
    disk.sync_directory(directory)
    os.replace(directory / names.temp_name(proof.name), proof)
    disk.sync_directory(directory)


def _is_complete(folder: Path, plan: ShardPlan) -> bool:
    return all((folder / names.shard_name(rank)).exists() for rank in range(plan.world_size))


def prepared(plan: ShardPlan, is_of_plan: Callable[[Saved], bool]) -> Saved | None:
    """Return the checkpoint whose manifest the previous writer had prepared, or even renamed, when it died."""
    proof = plan.directory / names.manifest_name(plan.name)
    for path in (proof.with_name(names.temp_name(proof.name)), proof):
        with suppress(OSError, CheckpointError):
            saved = manifest.load(opening.read_bytes(path))
            if is_of_plan(saved) and saved.shards:
                return saved
    return None


def discard(plan: ShardPlan) -> None:
    """Delete what an attempt has left that will not be committed. A rank that is late stops: see `shard.write`."""
    # Under another name first, so that no file appears in it any more.
    away = plan.directory / names.attempt_name(plan.name, names.new_attempt())
    with suppress(OSError):
        if plan.folder.is_dir():
            os.replace(plan.folder, away)
    with suppress(OSError):
        if plan.permit is not None:
            plan.permit.check(plan.name)  # nothing is written to a directory that is another one now
        os.close(opening.for_writing(plan.folder))
    with suppress(OSError):
        disk.remove(away)


def _take(plan: ShardPlan, rank: int, progress: Progress, found: dict[int, Report]) -> None:
    report = shard.read(plan, rank)
    if report is None:
        return
    if report.error:
        raise Incomplete(f"Rank {rank}: {report.error}")
    if report.layout != plan.layout:
        raise Incomplete(
            f"The checkpoint {plan.directory / plan.name} could not be written: rank {rank} holds other tensors than "
            f"rank 0, so that their shards do not fit together. Set sharded=false to save the state of rank 0."
        )
    if progress.sizes.get(names.shard_name(rank)) != report.num_bytes:
        raise Incomplete(
            f"The checkpoint {plan.directory / plan.name} could not be written: the shard of rank {rank} is not what "
            f"its report says. Nothing else may write to that directory."
        )
    found[rank] = report


def _patience(plan: ShardPlan, found: Mapping[int, Report], progress: Progress, has_ended: bool) -> str:
    """Return a sentence if ranks are waited for longer than usual, because their writers are at work.

    Raises:
        Incomplete: A rank shows no sign of life.
    """
    silent_s = time.monotonic() - progress.since_s
    missing = [rank for rank in range(plan.world_size) if rank not in found]
    at_work = {rank for rank in missing if sign_of_life.is_shown(plan.folder, rank)}
    progress.at_work |= at_work
    limits_s = dict.fromkeys(missing, SILENCE_S)
    if has_ended:
        not_begun = {rank for rank in missing if not any(_of_rank(name, rank) for name in progress.sizes)}
        limits_s |= dict.fromkeys(not_begun | (progress.at_work.intersection(missing) - at_work), SILENCE_AFTER_END_S)
    late = [rank for rank, limit_s in limits_s.items() if silent_s >= limit_s]
    path = plan.directory / plan.name
    if dead := [rank for rank in late if rank not in at_work]:
        raise Incomplete(
            f"The checkpoint {path} could not be written: the writer of {name_ranks(dead)} has shown no sign of life "
            f"for {limits_s[dead[0]]:g} s. Look for the cause in the log of that rank."
        )
    if not late:
        return ""
    return (
        f"The checkpoint {path} has made no progress for {limits_s[late[0]]:g} s: the disk of {name_ranks(late)} does "
        f"not respond. Still waiting."
    )


def _of_rank(name: str, rank: int) -> bool:
    return name in (own := names.shard_name(rank), names.temp_name(own))


def _sizes(folder: Path) -> dict[str, int]:
    found = {}
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):  # it was renamed meanwhile
                found[name] = os.lstat(folder / name).st_size
    return found
