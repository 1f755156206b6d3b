"""The checkpoints of a run among its artifacts in MLflow: a folder for each, and tags of the run as aliases.

artifacts/checkpoints/epoch_000_batch_000150/epoch_000_batch_000150.ckpt
                                             checkpoint.json              written last: without it, nothing counts
tags      cairn.checkpoint.latest = epoch_000_batch_000150.ckpt
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cairn import records
from cairn.mlflow.files import ArtifactFiles, ClientFiles, LocalFiles, local_path
from cairn.mlflow.store import MLFlowStore
from cairn.records import RecordError
from cairn.store import names
from cairn.trackers.plan import BEST, FINAL, LATEST, Version, step_alias
from cairn.trackers.remote import NOTE, Location, existing, files_of, metadata, sources
from cairn.types import Saved

_TAG = "cairn.checkpoint."
_ALIASES = (LATEST, BEST, FINAL)
"""Those that are tags; that of the step is in the note."""


class MLFlowRemote:
    """Executes single operations on the checkpoints of a run.

    Args:
        store: The run in MLflow.
        location: Where its checkpoints are.
    """

    online = True

    def __init__(self, store: MLFlowStore, location: Location) -> None:
        self._store, self._location = store, location

    def listed(self) -> list[Version]:
        """See `Remote`."""
        files = self._files()
        aliases = self._aliases()
        found = []
        for folder in files.folders():
            note = _note(files, folder)
            name = str(note.get("name"))
            if not note and names.parse_name(f"{folder}.ckpt") is not None:  # a kill has left a part of it
                files.delete(folder)
            elif note and Path(name).stem == folder:
                tagged = frozenset(alias for alias, of in aliases.items() if of == name)
                own = {step_alias(int(note.get("global_step", 0)))}
                found.append(Version(folder, name, str(note.get("digest")), tagged | own, has_bytes=None))
        return found

    def holds(self, version: Version, saved: Saved) -> bool:
        """See `Remote`."""
        sizes = self._files().sizes(version.id)
        return all(sizes.get(name) == num_bytes for name, num_bytes in files_of(saved))

    def upload(self, saved: Saved, source: Path, aliases: tuple[str, ...]) -> Version:
        """See `Remote`."""
        files, folder = self._files(), Path(saved.name).stem
        if folder in files.folders():  # of another checkpoint of that name, or cut off by a kill
            files.delete(folder)
        with existing(source, saved):
            for file, name in sources(source, saved):
                files.put(file, f"{folder}/{name}")
        note = metadata(saved, self._location)
        files.write(json.dumps(note, indent=2, default=str).encode(), f"{folder}/{NOTE}")
        own = frozenset({step_alias(saved.position.step)})
        return self._tagged(Version(folder, saved.name, saved.digest, own), aliases)

    def delete(self, version: Version) -> None:
        """See `Remote`."""
        self.untag(version)
        self._files().delete(version.id)

    def untag(self, version: Version) -> Version:
        """See `Remote`."""
        for alias, name in self._aliases().items():
            if name == version.name:
                self._store.client.delete_tag(self._store.run_id, _TAG + alias)
        return replace(version, aliases=frozenset())

    def add_aliases(self, version: Version, aliases: tuple[str, ...]) -> Version:
        """See `Remote`."""
        return self._tagged(version, aliases)

    def _tagged(self, version: Version, aliases: tuple[str, ...]) -> Version:
        for alias in set(aliases) & set(_ALIASES):
            self._store.client.set_tag(self._store.run_id, _TAG + alias, version.name)
        return replace(version, aliases=version.aliases | set(aliases))

    def _aliases(self) -> dict[str, str]:
        """The file name of the checkpoint of each alias."""
        self._store.connect()
        tags = self._store.client.get_run(self._store.run_id).data.tags
        return {key.removeprefix(_TAG): value for key, value in tags.items() if key.startswith(_TAG)}

    def _files(self) -> ArtifactFiles:
        store = self._store
        store.connect()
        if (path := local_path(store.artifact_uri)) is not None:
            return LocalFiles(path)
        return ClientFiles(store.client, store.run_id, store.artifact_uri, self._location.notes("mlflow"))


def _note(files: ArtifactFiles, folder: str) -> dict[str, Any]:
    """What a folder says of its checkpoint; empty if it was cut off by a kill."""
    try:
        if NOTE not in files.sizes(folder):
            return {}
        found = records.parse(files.read(f"{folder}/{NOTE}"))
    except (RecordError, FileNotFoundError):
        return {}
    return found if isinstance(found, dict) else {}
