"""A logger for Trackio: a resumed run continues the same Trackio run, and each row is there once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cairn.store.listener import Listener
from cairn.trackers.identity import Identity
from cairn.trackers.logger import RowLogger
from cairn.trackers.settings import ArtifactSettings
from cairn.trackio.store import RunName, TrackioStore
from cairn.trackio.target import target


class TrackioLogger(RowLogger):
    """Logs metrics to Trackio: to SQLite files of a folder, to a server, or to a Space.

    Args:
        save_dir: The run directory, which keeps a journal of all rows.
        store_dir: Folder of the SQLite files, unless `TRACKIO_DIR` is set; None: `trackio` in the run directory.
        server_url: Address of a server; None: `TRACKIO_SERVER_URL`. It is stored with the run: the token belongs into
            `TRACKIO_WRITE_TOKEN`.
        space_id: A Space of Hugging Face, which must exist; None: `TRACKIO_SPACE_ID`.
        project: Name of the project.
        name: Name of the run; None: the beginning of its id.
        group: Name of the group.
        id: Id of the run, by which a resume finds it; None: it is chosen at the first start.
        prefix: Put in front of the name of each metric, with a slash.

    Raises:
        ConfigError: Trackio is not installed, or the address holds a token.
    """

    tracker = "Trackio"

    def __init__(
        self,
        save_dir: str | Path,
        store_dir: str | Path | None = None,
        server_url: str | None = None,
        space_id: str | None = None,
        project: str = "lightning",
        name: str | None = None,
        group: str | None = None,
        id: str | None = None,
        prefix: str = "",
    ) -> None:
        folder = Path(save_dir) / "trackio"
        # A configuration may have numbers for names.
        self._project, self._run_name = str(project), None if name is None else str(name)
        self._group, identity = None if group is None else str(group), Identity(folder, id)
        where = target(server_url, space_id, Path(store_dir) if store_dir else folder)
        self.store = TrackioStore(where, self._named)
        super().__init__(folder, self.store, identity, prefix)

    def _named(self) -> RunName:
        return RunName(self._project, self._identity.id, self._run_name or self._identity.id[:8], self._group)

    @property
    def name(self) -> str:
        return self._project

    def listener(self, settings: ArtifactSettings, run: Path, facts: Mapping[str, Any]) -> Listener:
        from cairn.trackio.artifacts import Artifacts

        return Artifacts(self, **asdict(settings), run_directory=run, facts=facts)
