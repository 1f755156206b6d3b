"""Executes single operations on the artifact of a run: online on W&B's server, offline in the run's log."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import wandb

from cairn import opening
from cairn.trackers.plan import LATEST, Version
from cairn.trackers.remote import NOTE, Location, existing, metadata, sources
from cairn.types import Saved
from cairn.wandb import client


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

    def holds(self, version: Version, saved: Saved) -> bool:
        """See `Remote`."""
        return client.holds(version.handle, saved)

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """See `Remote`."""
        artifact = _artifact(self._run, saved, self._location)
        with existing(source, saved):
            # Without a copy in W&B's staging folder or cache: the outbox keeps the bytes until W&B has them.
            for file, name in sources(source, saved):
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

    def holds(self, version: Version, saved: Saved) -> bool:
        """See `Remote`. It refers to the file."""
        return False

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """See `Remote`. The version refers to the file: a copy of the bytes would stay in the log for good."""
        artifact = _artifact(self._run, saved, self._location)
        with existing(source, saved):
            for file, name in sources(source, saved):
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


def _artifact(run: Any, saved: Saved, location: Location) -> Any:
    """An artifact that holds a description of the checkpoint; the checkpoint itself is still to be added."""
    facts = metadata(saved, location)
    artifact = wandb.Artifact(client.collection(run.id), client.TYPE, metadata=facts)
    notes = location.notes(client.NAME)
    notes.mkdir(exist_ok=True)
    # `new_file` would leave a folder in $TMPDIR after a kill.
    with tempfile.TemporaryDirectory(dir=notes) as made:
        note = Path(made) / NOTE
        with opening.new_file(note) as file:
            file.write(json.dumps(facts, indent=2).encode())
        # W&B takes a copy. Without the note, two references to one path would be the same version.
        artifact.add_file(str(note), name=NOTE, skip_cache=True)
    return artifact


def _version(handle: Any) -> Version:
    name, aliases = str(handle.metadata.get("name")), frozenset(handle.aliases)
    return Version(handle.id, name, client.digest_of(handle), aliases, has_bytes=None, handle=handle)
