"""One rank's shard of a checkpoint: written into the directory of one attempt, with a report that says so.

    .epoch_000_batch_000150.ckpt.ATTEMPT.tmp/
        rank_00001.ckpt     written to a hidden name, synced, renamed
        rank_00001.json     the report, in the same way: size and digest of the shard, or why it could not be written
        writers.lock        locked while a writer is at work, see sign_of_life.py

When rank 0 gives up a save, an empty file takes the place of the directory: a rank that is late finds it, and stops.
Ranks find each other only by these files, so that a checkpoint is committed although all training processes were
killed. An attempt is one save: a shard that an earlier one has left is in another directory, and is never counted.

Imports no torch, as commit.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cairn import opening, records
from cairn.errors import CheckpointError, SaveError
from cairn.records import RecordError
from cairn.store import disk, file_format, manifest, names, sign_of_life
from cairn.store.claim import Permit
from cairn.store.write_error import why_not_written
from cairn.types import ShardFile

_MAX_BYTES = 2**16


@dataclass(frozen=True)
class ShardPlan:
    """What one rank writes of a checkpoint."""

    directory: Path
    name: str
    """Name of the checkpoint."""
    attempt: str
    """Id of the save, which rank 0 has chosen."""
    rank: int
    world_size: int
    layout: str
    """Digest of how the state is cut, which has to be the same on all ranks."""
    permit: Permit | None = None
    """What is checked before anything is written; None: nothing."""
    retry: bool = False
    """True if the previous writer died while it worked on this plan."""

    @property
    def folder(self) -> Path:
        """Hidden directory of the attempt."""
        return self.directory / names.attempt_name(self.name, self.attempt)


@dataclass(frozen=True)
class Report:
    """What a rank's writer says of its shard."""

    attempt: str
    rank: int
    world_size: int
    layout: str
    num_bytes: int = 0
    digest: str = ""
    error: str = ""
    """Why the shard could not be written; empty if it was."""


class Abandoned(SaveError):
    """Rank 0 has given up the save."""


def write(plan: ShardPlan, view: memoryview, beat: Callable[[int], None] = lambda num_bytes: None) -> Report:
    """Write the shard of a rank, and report it.

    Args:
        plan: What to write.
        view: The whole file in memory; the checksums of its records are filled in here.
        beat: Called repeatedly with the number of bytes written so far.

    Returns:
        The report.

    Raises:
        Abandoned: Rank 0 has given up this save.
        SaveError: The shard could not be written; the report says so, if it could be written.
    """
    if plan.permit is not None:
        plan.permit.check(plan.name)
    if plan.retry and (known := _written_before(plan, view)) is not None:
        return known
    path = plan.folder / names.shard_name(plan.rank)

    def advance(num_bytes: int) -> None:
        _check_awaited(plan)
        beat(num_bytes)

    try:
        _make_folder(plan)
        with sign_of_life.shown(plan.folder, plan.rank):
            disk.put_chunks(path, file_format.sealed(view, disk.CHUNK_BYTES), len(view), advance)
            found = _report(plan, num_bytes=len(view), digest=file_format.digest(view))
            _put(plan, found)
    except Abandoned:
        raise
    except OSError as error:
        if (known := _written_before(plan, view)) is not None:
            return known  # only its last sync failed, and rank 0 may count on the shard already: it syncs both again
        _check_awaited(plan)
        why = why_not_written(plan.directory / plan.name, error, len(view))
        with suppress(OSError):
            disk.remove(path)  # it makes room for the report
        report_failure(plan, why)
        raise SaveError(why) from error
    return found


def report_failure(plan: ShardPlan, why: str) -> None:
    """Report that this rank has no shard, so that rank 0 does not wait for it; a disk may refuse that as well."""
    with suppress(OSError):
        if read(plan, plan.rank) is None:
            _make_folder(plan)
            _put(plan, _report(plan, error=why))


def read(plan: ShardPlan, rank: int) -> Report | None:
    """Read the report of a rank; None if there is none of this attempt."""
    try:
        found = records.read(Report, records.parse(opening.read_bytes(_path(plan, rank), _MAX_BYTES)))
    except (OSError, RecordError, TypeError, KeyError):
        return None
    mine = plan.attempt, rank, plan.world_size
    return found if (found.attempt, found.rank, found.world_size) == mine else None


def _make_folder(plan: ShardPlan) -> None:
    with suppress(FileExistsError):
        os.mkdir(plan.folder)
    _check_awaited(plan)


def _check_awaited(plan: ShardPlan) -> None:
    """Raise Abandoned if rank 0 has given up the save; if the whole directory is gone, the next step fails."""
    if not plan.folder.is_dir() and plan.directory.exists():
        raise Abandoned(
            f"The shard of rank {plan.rank} of {plan.directory / plan.name} was not written: rank 0 has given up this "
            f"save; its log says why."
        )


def _report(plan: ShardPlan, num_bytes: int = 0, digest: str = "", error: str = "") -> Report:
    return Report(plan.attempt, plan.rank, plan.world_size, plan.layout, num_bytes, digest, error)


def _put(plan: ShardPlan, report: Report) -> None:
    disk.put(_path(plan, plan.rank), (json.dumps(asdict(report)) + "\n").encode())


def _path(plan: ShardPlan, rank: int) -> Path:
    return plan.folder / names.report_name(rank)


def _written_before(plan: ShardPlan, view: memoryview) -> Report | None:
    """Return the report of the shard, if this or the previous writer came that far."""
    if (found := read(plan, plan.rank)) is not None and not found.error:
        return found
    # Rank 0 deletes the reports once it has them all and has written the manifest, under its hidden name at first.
    # From then on, nothing may change in the directory of the attempt, which is about to be the checkpoint.
    proof, known = plan.directory / names.manifest_name(plan.name), []
    for path in (proof.with_name(names.temp_name(proof.name)), proof):
        with suppress(OSError, CheckpointError):
            known += [item.digest for item in manifest.load(opening.read_bytes(path)).shards if _is_mine(plan, item)]
    if not known:
        return None
    for _ in file_format.sealed(view, disk.CHUNK_BYTES):
        pass
    found = _report(plan, num_bytes=len(view), digest=file_format.digest(view))
    return found if found.digest in known else None


def _is_mine(plan: ShardPlan, item: ShardFile) -> bool:
    return item.name == names.shard_name(plan.rank)
