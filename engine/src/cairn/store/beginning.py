"""WHERE a fit begins and which run it belongs to: decided once, before the first batch, from the directory itself."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from cairn.errors import CheckpointError, ConfigError
from cairn.store import claim, links, names, resume, shards
from cairn.store.catalog import Catalog, Rejected, describe, verify, verify_file
from cairn.store.resume import ResumePoint


@dataclass(frozen=True)
class Beginning:
    """Where a fit begins."""

    run: str
    """Id of the run that its checkpoints belong to."""
    point: ResumePoint


def beginning(
    directory: Path, loaded: Path | None, known: ResumePoint | None, run: str | None, elsewhere: str = ""
) -> Beginning:
    """Decide what a fit that loads `loaded` means for the checkpoints in `directory`.

    Args:
        directory: Where this run's checkpoints lie, or will lie.
        loaded: The checkpoint that the fit begins with; None: it begins from scratch.
        known: What `Checkpointer.resume` has found and verified; None: it was not asked.
        run: Id of the run; None: that of the checkpoints in the directory or of its claim, `elsewhere`, or a new one.
        elsewhere: Id of the run in a mirror, which may hold no checkpoint yet; empty: there is none.

    Raises:
        ConfigError: The directory holds checkpoints, and the fit does not go on from one of them.
        CheckpointError: The checkpoint is not intact.
        ResumeError: See `resume.put_back`.
    """
    loaded = links.target(loaded) if loaded is not None else None
    if known is not None and (links.target(known.path) if known.path is not None else None) == loaded:
        return Beginning(run or (known.saved.run if known.saved else _claimed_by(directory, elsewhere)), known)
    resume.put_back(directory)
    committed = Catalog(directory).committed()
    if loaded is not None and loaded.parent == directory.resolve() and names.parse_name(loaded.name):
        saved = describe(loaded)
        verify(loaded, saved)
        newer = [item for item in committed if item.position > saved.position]
        given_up = tuple(Rejected(directory / item.name, "the run goes on from an earlier one") for item in newer)
        return Beginning(run or saved.run, ResumePoint(loaded, saved, given_up))
    if committed and loaded is None:
        raise ConfigError(
            f"{directory} holds {len(committed)} checkpoints, the newest {committed[-1].name}, and this fit would start"
            f" from scratch: go on with fit(..., ckpt_path=checkpointer.resume()), or give it another directory."
        )
    if committed:
        raise ConfigError(
            f"{directory} holds {len(committed)} checkpoints, and this fit starts a new run from {loaded}: give it"
            f" another directory."
        )
    if loaded is not None:
        _verify_foreign(loaded)
    point = resume.find_resume_point(directory)  # only what a first save left that was cut off
    return Beginning(run or _claimed_by(directory, elsewhere), ResumePoint(loaded, None, point.rejected))


def _claimed_by(directory: Path, elsewhere: str) -> str:
    """Return the id of the run whose start ended before its first save, or a new id."""
    owner = claim.read(directory)
    return owner.run if owner else elsewhere or secrets.token_hex(4)


def _verify_foreign(path: Path) -> None:
    if path.is_file() or shards.is_sharded(path):
        try:
            verify_file(path)
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be used: {error}.") from error
