"""Find the checkpoint that a run resumes from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.errors import ResumeError
from cairn.store import disk, earlier, names
from cairn.store.catalog import Catalog, Rejected, refuse_newer
from cairn.types import Saved

log = logging.getLogger(__name__)

_POLL_S = 0.05


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues."""

    path: Path | None
    """The checkpoint to load, a file or a directory of shards; None: start from the beginning."""
    saved: Saved | None = None
    """Its manifest; None for the checkpoint of another run, or for none."""
    rejected: tuple[Rejected, ...] = ()
    """Newer files that were not used."""


Bring = Callable[[Saved | None], Saved | None]
"""Brings a newer checkpoint into the directory than the one that it is given, and verifies it; None: there is none."""


def find_resume_point(
    directory: Path, check: Callable[[Path, Saved], None] | None = None, bring: Bring = lambda local: None
) -> ResumePoint:
    """Find the newest intact checkpoint in `directory`, or elsewhere, if there is one.

    Nothing changes there, except that a checkpoint whose replacement was interrupted gets its name back.

    Args:
        directory: Checkpoints of one run; it may not exist yet.
        check: Compares a checkpoint with its manifest; None: this process alone reads all of it.
        bring: Called with the newest intact one in `directory`; it may bring a newer one from elsewhere.

    Returns:
        The checkpoint, or the beginning of the run.

    Raises:
        ResumeError: Checkpoints were committed and none is intact, or a later version of Cairn wrote the newest.
    """
    put_back(directory)
    saved, rejected = Catalog(directory).newest_intact(check)
    refuse_newer(rejected)
    if (brought := bring(saved)) is not None:
        at = brought.position.epoch, brought.position.batch
        after = [item for item in Catalog(directory).rejected() if (names.parse_name(item.path.name) or at) > at]
        return ResumePoint(directory / brought.name, brought, tuple(after))
    # A single file without a manifest is the interrupted first save of the run; the next start deletes it.
    # Two of them, or a manifest whose file is damaged, mean that checkpoints were committed and are lost now.
    if saved is None and (len(rejected) > 1 or any(item.committed for item in rejected)):
        listing = "; ".join(f"{item.path.name}: {item.why}" for item in rejected)
        raise ResumeError(f"No checkpoint in {directory} is intact ({listing}). To start over, move these files away.")
    return ResumePoint(directory / saved.name if saved else None, saved, tuple(rejected))


def put_back(directory: Path) -> None:
    """Give a checkpoint its name back whose replacement was interrupted; the next save replaces it.

    Args:
        directory: Checkpoints of one run; it may not exist yet.

    Raises:
        ResumeError: This failed.
    """
    try:
        earlier.settle_all(directory)
    except OSError as error:
        raise ResumeError(
            f"The replacement of a checkpoint in {directory} was interrupted, and the earlier one could not get its "
            f"name back: {error.strerror or error}. Make the directory writable."
        ) from error


def warn_of_others(directory: Path) -> None:
    """Warn if a directory without a checkpoint holds files of another program, or is the parent of the one meant."""
    below = directory / "checkpoints"
    if Catalog(below).committed():
        log.warning("%s holds no checkpoint, but %s does: to resume that run, name that directory.", directory, below)
    files = sorted(path for path in directory.glob("*.ckpt") if path.is_file() and not names.parse_name(path.name))
    if files:
        newest = max(files, key=lambda path: path.stat().st_mtime)
        log.warning(
            "%s holds no checkpoint of Cairn, so the run starts from the beginning. To start from %s, pass its path as "
            "ckpt_path, and give the run another directory.",
            directory,
            newest.name,
        )


def wait_for_writers(directory: Path, patience_s: float = 600.0) -> None:
    """Wait for the writer of a killed training process to finish: what it commits is the newest checkpoint.

    Args:
        directory: The checkpoints of the run.
        patience_s: How long the writer may make no progress, in seconds.

    Raises:
        ResumeError: The writer makes no progress.
    """
    num_bytes, deadline, num_looks = -1, 0.0, 0
    while disk.is_locked(directory):
        num_looks += 1
        if num_looks == 2:  # once may be another rank that looks at the same moment
            log.info("The previous attempt is still writing a checkpoint: waiting for it.")
        if (now := _unfinished_bytes(directory)) != num_bytes:
            num_bytes, deadline = now, time.monotonic() + patience_s
        if time.monotonic() > deadline:
            raise ResumeError(
                f"A process holds the lock of {directory} and has written nothing for {patience_s:g} s: stop it first, "
                f"and check the disk."
            )
        time.sleep(_POLL_S)


def _unfinished_bytes(directory: Path) -> int:
    num_bytes = 0
    for path in Catalog(directory).leftovers():
        with suppress(OSError):  # it was renamed to its final name in the meantime
            num_bytes += disk.size_bytes(path)
    return num_bytes


def check_epochs_left(path: Path, contents: Mapping[str, Any], max_epochs: int | None) -> None:
    """Check that a checkpoint lies before the end of the run.

    Args:
        path: The file, for the message.
        contents: What it holds.
        max_epochs: Where the run ends; None or -1: no limit.

    Raises:
        ResumeError: The checkpoint is beyond that epoch.
    """
    raised = contents.get("cairn", {}).get("settings", {}).get("raised")
    if raised and raised["first"]["max_epochs"] == max_epochs:
        return  # training has raised it itself, which a resume keeps
    if max_epochs is not None and -1 < max_epochs < contents.get("epoch", 0):
        raise ResumeError(
            f"{path} is in epoch {contents['epoch']}, beyond max_epochs={max_epochs}: raise max_epochs, or start a new "
            f"run from its weights only.",
            parameter="max_epochs",
        )
