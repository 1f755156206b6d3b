"""Executes single operations on the artifact of a run: online on W&B's server, offline in the run's log."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import wandb

from cairn import opening
from cairn.types import Saved
from cairn.wandb import client
from cairn.wandb.plan import LATEST, Version

NOTE = "checkpoint.json"
"""Describes the checkpoint in each version: without it, two references to one path would be the same version."""


@dataclass(frozen=True)
class Location:
    """Where the checkpoints of a run are, and what the metadata of each version says of the run."""

    checkpoints: Path
    run: Path | None = None
    """The run directory; None outside of the Hydra template."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Goes into the metadata: the git commit, what the run started from, ..."""

    @property
    def notes(self) -> Path:
        """Folder of our own files about W&B."""
        return self.checkpoints / ".wandb" if self.run is None else self.run / "wandb"


class FileGone(Exception):
    """The file of a checkpoint does not exist any more.

    Args:
        saved: The checkpoint.
    """

    def __init__(self, saved: Saved) -> None:
        super().__init__(saved.name)
        self.saved = saved


class Remote(Protocol):
    """The versions of one run's artifact in W&B."""

    online: bool

    def listed(self) -> list[Version]:
        """What W&B has, oldest first; whether with bytes is left open."""
        ...

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """Make a version of a checkpoint and return when W&B has it.

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


class Online:
    """Talks to the server.

    Args:
        run: W&B's run.
        location: Where its checkpoints are.
    """

    online = True

    def __init__(self, run: Any, location: Location) -> None:
        self._run, self._location = run, location

    def listed(self) -> list[Version]:
        """See `Remote`."""
        there = client.versions(f"{self._run.entity}/{self._run.project}/{client.collection(self._run.id)}")
        return [_version(handle) for handle in there]

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """See `Remote`."""
        artifact = _artifact(self._run, saved, self._location)
        with _existing(source, saved):
            # Without a copy in W&B's staging folder or cache: the outbox keeps the bytes until W&B has them.
            for file, name in _files(source, saved):
                artifact.add_file(str(file), name=name, policy="immutable", skip_cache=True)
        handle = self._run.log_artifact(artifact, aliases=list(aliases)).wait()
        given = frozenset(aliases) | {LATEST}  # which the server adds
        return Version(handle.id, saved.name, saved.digest, given, handle=handle)

    def delete(self, version: Version) -> None:
        """See `Remote`."""
        version.handle.delete(delete_aliases=True)

    def untag(self, version: Version) -> Version:
        """See `Remote`."""
        return self._with_aliases(version, frozenset(), keep=False)

    def add_aliases(self, version: Version, aliases: tuple[str, ...]) -> Version:
        """See `Remote`."""
        return self._with_aliases(version, frozenset(aliases), keep=True)

    def _with_aliases(self, version: Version, aliases: frozenset[str], keep: bool) -> Version:
        now = client.again(version.handle)  # others may have changed its aliases since it was listed
        now.aliases = sorted(aliases | set(now.aliases) if keep else aliases)
        now.save()
        return replace(version, aliases=frozenset(now.aliases))


class Offline:
    """Writes to the run's log, which `wandb sync` or `cairn sync` sends later. Nothing can be taken back there.

    Args:
        run: W&B's run.
        location: Where its checkpoints are.
    """

    online = False

    def __init__(self, run: Any, location: Location) -> None:
        self._run, self._location = run, location

    def listed(self) -> list[Version]:
        """See `Remote`."""
        return []

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """See `Remote`. The version refers to the file: a copy of the bytes would stay in the log for good."""
        artifact = _artifact(self._run, saved, self._location)
        with _existing(source, saved):
            for file, name in _files(source, saved):
                artifact.add_reference(file.absolute().as_uri(), name=name, checksum=False)
        self._run.log_artifact(artifact, aliases=list(aliases))
        return Version(
            f"{saved.name} {saved.digest}", saved.name, saved.digest, frozenset(aliases) | {LATEST}, handle=saved
        )

    def delete(self, version: Version) -> None:
        """See `Remote`."""

    def untag(self, version: Version) -> Version:
        """See `Remote`."""
        return replace(version, aliases=frozenset())

    def add_aliases(self, version: Version, aliases: tuple[str, ...]) -> Version:
        """See `Remote`. The same content again makes no new version: it moves the aliases, `latest` among them."""
        saved: Saved = version.handle
        return self.upload(saved, self._location.checkpoints / saved.name, (*sorted(version.aliases), *aliases))


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


def _artifact(run: Any, saved: Saved, location: Location) -> Any:
    """An artifact that holds a description of the checkpoint; the checkpoint itself is still to be added."""
    facts = metadata(saved, location)
    artifact = wandb.Artifact(client.collection(run.id), client.TYPE, metadata=facts)
    location.notes.mkdir(exist_ok=True)
    # `new_file` would leave a folder in $TMPDIR after a kill.
    with tempfile.TemporaryDirectory(dir=location.notes) as made:
        note = Path(made) / NOTE
        with opening.new_file(note) as file:
            file.write(json.dumps(facts, indent=2).encode())
        artifact.add_file(str(note), name=NOTE, skip_cache=True)  # W&B takes a copy
    return artifact


def _files(source: Path, saved: Saved) -> list[tuple[Path, str]]:
    """Return the files of a checkpoint, each with its name in the artifact."""
    named = [name for name, _ in client.files_of(saved)]
    return [(source / Path(name).name if saved.shards else source, name) for name in named]


def _version(handle: Any) -> Version:
    name, aliases = str(handle.metadata.get("name")), frozenset(handle.aliases)
    return Version(handle.id, name, client.digest_of(handle), aliases, has_bytes=None, handle=handle)


@contextmanager
def _existing(source: Path, saved: Saved) -> Iterator[None]:
    """Distinguish errors about a deleted file from all others."""
    try:
        yield
    except (OSError, ValueError) as error:
        if source.exists():
            raise
        raise FileGone(saved) from error
