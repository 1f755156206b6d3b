"""Lists committed checkpoints in Trackio, as versions of an artifact that refer to the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cairn.store import names
from cairn.trackers.artifacts import ArtifactListener, Connection
from cairn.trackers.plan import LATEST, Version
from cairn.trackers.remote import Location, existing, metadata, sources
from cairn.trackers.settings import ArtifactSettings, WhenDeleted, Which
from cairn.trackio.logger import TrackioLogger
from cairn.trackio.store import TrackioStore
from cairn.types import Saved


class Artifacts(ArtifactListener):
    """Lists the checkpoints of a run in Trackio, as versions of the artifact `model-<id of the run>`.

    A version refers to the file and has its size, its digest and its metadata: Trackio never deletes a version, so that
    the bytes of all checkpoints would stay there. It has the aliases `step-<N>`, `latest`, `best` and `final`.

        logger = cairn.trackio.TrackioLogger("runs/a")
        checkpoints = cairn.Checkpointer("runs/a/checkpoints", listeners=[cairn.trackio.Artifacts(logger)])

    Args:
        logger: The logger of the run.
        which: List `all` checkpoints, the `best`, the `final`, or `none`.
        every: With `all`: list one in this many of those that are neither the best nor the final one.
        deleted: Has no effect: Trackio keeps the version of a checkpoint that retention deletes.
        queue_bytes: Has no effect: nothing is copied.
        wait_s: Maximum time that the end of the run waits for Trackio, in seconds.
        run_directory: A run directory of the Hydra template.
        facts: Further metadata of each version.

    Raises:
        ConfigError: A value is not one of those above.
    """

    tracker = "Trackio"

    def __init__(
        self,
        logger: TrackioLogger,
        which: Which = "all",
        every: int = 1,
        deleted: WhenDeleted = "delete",
        queue_bytes: int | None = None,
        wait_s: float = 600.0,
        *,
        run_directory: Path | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(ArtifactSettings(which, every, deleted, queue_bytes, wait_s))
        self._logger, self._run_directory, self._facts = logger, run_directory, facts or {}

    def connect(self, directory: Path) -> Connection | None:
        """Return the way to the artifact of the run.

        Args:
            directory: The checkpoint directory.
        """
        location = Location(directory, self._run_directory, self._facts)
        return Connection(_References(self._logger.store, location), location.notes("trackio"), names.TRACKIO_OUTBOX)


class _References:
    """Makes versions that refer to files. A version with the same files is the same one: more aliases are added to it.

    Args:
        store: The run in Trackio.
        location: Where its checkpoints are.
    """

    online = False

    def __init__(self, store: TrackioStore, location: Location) -> None:
        self._store, self._location = store, location

    def listed(self) -> list[Version]:
        """See `Remote`. What is made again is the same version."""
        return []

    def holds(self, version: Version, saved: Saved) -> bool:
        """See `Remote`. It refers to the file."""
        return False

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """See `Remote`."""
        self._store.connect()
        calls, named = self._store.connected()
        manifest = []
        with existing(source, saved):
            for file, name in sources(source, saved):
                uri, num_bytes = file.absolute().as_uri(), file.stat().st_size
                manifest.append({"path": name, "digest": saved.digest, "size": num_bytes, "ref": uri})
        calls.log_artifact(
            project=named.project,
            name=f"model-{named.id}",
            manifest=manifest,
            metadata=metadata(saved, self._location),
            aliases=[alias for alias in aliases if alias != LATEST],
            run_name=named.name,
            run_id=named.id,
        )
        return Version(
            f"{saved.name} {saved.digest}", saved.name, saved.digest, frozenset(aliases) | {LATEST}, handle=saved
        )

    def delete(self, version: Version) -> None:
        """See `Remote`. Trackio keeps it."""

    def untag(self, version: Version) -> Version:
        """See `Remote`. Trackio keeps its aliases until other versions get them."""
        return replace(version, aliases=frozenset())

    def add_aliases(self, version: Version, aliases: tuple[str, ...]) -> Version:
        """See `Remote`."""
        saved: Saved = version.handle
        own = tuple(sorted({*version.aliases, *aliases} - {LATEST}))
        return self.upload(saved, self._location.checkpoints / saved.name, own)
