"""What a tracker does with the versions of one run's artifact: the operations that a plan asks for, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cairn.trackers.plan import Version
from cairn.types import Saved

NOTE = "checkpoint.json"
"""Describes the checkpoint in each version."""


@dataclass(frozen=True)
class Location:
    """Where the checkpoints of a run are, and what the metadata of each version says of the run."""

    checkpoints: Path
    run: Path | None = None
    """The run directory; None outside of the Hydra template."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Goes into the metadata: the git commit, what the run started from, ..."""

    def notes(self, tracker: str) -> Path:
        """Folder of our own files about a tracker, such as `wandb`."""
        return self.checkpoints / f".{tracker}" if self.run is None else self.run / tracker


class FileGone(Exception):
    """The file of a checkpoint does not exist any more.

    Args:
        saved: The checkpoint.
    """

    def __init__(self, saved: Saved) -> None:
        super().__init__(saved.name)
        self.saved = saved


class Remote(Protocol):
    """The versions of one run's artifact in a tracker."""

    online: bool
    """Checkpoints are uploaded, and not only referred to."""

    def listed(self) -> list[Version]:
        """What the tracker has, oldest first; whether with bytes may be left open."""
        ...

    def holds(self, version: Version, saved: Saved) -> bool:
        """Whether a version has the bytes of a checkpoint."""
        ...

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """Make a version of a checkpoint and return when the tracker has it.

        Args:
            saved: The checkpoint.
            source: Where its bytes are.
            aliases: Aliases of the version.

        Returns:
            The version.

        Raises:
            FileGone: There is no such file.
        """
        ...

    def delete(self, version: Version) -> None:
        """Delete a version with its aliases."""
        ...

    def untag(self, version: Version) -> Version:
        """Remove all aliases of a version."""
        ...

    def add_aliases(self, version: Version, aliases: tuple[str, ...]) -> Version:
        """Give a version more aliases."""
        ...


def metadata(saved: Saved, location: Location) -> dict[str, Any]:
    """The metadata of a checkpoint's version."""
    path, run = location.checkpoints / saved.name, location.run
    place = {"path": str(path)}
    if run is not None:
        inside = path.relative_to(run) if path.is_relative_to(run) else path
        place = {"path": str(inside), "run_directory": str(run)}
    return {
        "name": saved.name,
        "epoch": saved.position.epoch,
        "batch": saved.position.batch,
        "global_step": saved.position.step,
        "samples": saved.position.samples,
        "metrics": dict(saved.metrics),
        "reasons": list(saved.reasons),
        "bytes": saved.num_bytes,
        "digest": saved.digest,
        **place,
        **location.facts,
    }


def files_of(saved: Saved) -> list[tuple[str, int]]:
    """Return the files of a checkpoint, as a version names them, with their sizes in bytes."""
    if saved.shards:
        return [(f"{saved.name}/{item.name}", item.num_bytes) for item in saved.shards]
    return [(saved.name, saved.num_bytes)]


def sources(source: Path, saved: Saved) -> list[tuple[Path, str]]:
    """Return the files of a checkpoint, each with its name in a version.

    Args:
        source: The checkpoint: a file, or a directory of shards.
        saved: What its manifest says.
    """
    named = [name for name, _ in files_of(saved)]
    return [(source / Path(name).name if saved.shards else source, name) for name in named]


@contextmanager
def existing(source: Path, saved: Saved) -> Iterator[None]:
    """Distinguish errors about a deleted file from all others.

    Raises:
        FileGone: The block has failed because there is no such file.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if source.exists():
            raise
        raise FileGone(saved) from error
