"""Calls to Trackio's storage on this machine, or to its server. Each may wait for a lock, or for a server.

`trackio.init` and `trackio.log` number rows by themselves and send them from a thread that drops what a kill cuts off.
The calls here are those that they are made of: each row has an id, and one whose id is there already is ignored.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypedDict

from huggingface_hub.utils import get_token
from trackio.remote_client import RemoteClient
from trackio.sqlite_storage import SQLiteStorage
from trackio.utils import TRACKIO_DIR, parse_trackio_server_url, serialize_values

from cairn.trackio.store import OWN

log = logging.getLogger(__name__)

_WAIT_S = 30.0
"""Maximum time to wait for other writers."""
_MODEL = "model"


class Entry(TypedDict):
    """A row, as Trackio's server takes it."""

    project: str
    run: str
    run_id: str
    metrics: Mapping[str, Any]
    step: int
    timestamp: str
    log_id: str
    config: Mapping[str, Any] | None


class Calls(Protocol):
    """What differs between the storage on this machine and a server."""

    def rows(self, project: str, run_id: str) -> dict[str, str] | None:
        """The timestamps of our rows by their ids; None if they cannot be listed."""
        ...

    def delete(self, project: str, run_id: str, ids: Sequence[str]) -> None:
        """Delete rows."""
        ...

    def log(self, entries: Sequence[Entry]) -> None:
        """Add rows of one run."""
        ...

    def log_artifact(self, **facts: Any) -> None:
        """Make a version of an artifact, or give more aliases to the one with the same files."""
        ...


class Local:
    """The storage on this machine.

    Args:
        folder: The folder that it should have. Trackio has one for all runs of a process: that of the first.
    """

    def __init__(self, folder: Path) -> None:
        if folder.absolute() != Path(TRACKIO_DIR).absolute():
            log.warning(
                "Trackio keeps all rows of a process in one folder, which is %s already: those of this run go there, "
                "too, and not to %s. Start it in a process of its own, or give both the same store_dir.",
                *(TRACKIO_DIR, folder),
            )

    def rows(self, project: str, run_id: str) -> dict[str, str] | None:
        """See `Calls`."""
        SQLiteStorage.init_db(project)
        with closing(self._connection(project)) as connection:
            found = connection.execute("SELECT log_id, timestamp FROM metrics WHERE run_id = ?", (run_id,))
            return {id: timestamp for id, timestamp in found if id is not None and id.startswith(OWN)}

    def delete(self, project: str, run_id: str, ids: Sequence[str]) -> None:
        """See `Calls`."""
        with closing(self._connection(project)) as connection, connection:
            pairs = [(run_id, id) for id in ids]
            connection.executemany("DELETE FROM metrics WHERE run_id = ? AND log_id = ?", pairs)

    def log(self, entries: Sequence[Entry]) -> None:
        """See `Calls`."""
        first = entries[0]
        SQLiteStorage.bulk_log(
            project=first["project"],
            run=first["run"],
            run_id=first["run_id"],
            metrics_list=[dict(entry["metrics"]) for entry in entries],
            steps=[entry["step"] for entry in entries],
            timestamps=[entry["timestamp"] for entry in entries],
            log_ids=[entry["log_id"] for entry in entries],
            config=next((dict(entry["config"]) for entry in entries if entry["config"]), None),
        )

    def log_artifact(self, **facts: Any) -> None:
        """See `Calls`."""
        SQLiteStorage.commit_artifact_version(type=_MODEL, description=None, **facts)

    def _connection(self, project: str) -> sqlite3.Connection:
        return sqlite3.connect(SQLiteStorage.get_project_db_path(project), timeout=_WAIT_S)


class Server:
    """A server, or a Space.

    Args:
        space_id: The Space; empty for a server.
        url: The server; it may hold a token.
    """

    def __init__(self, space_id: str, url: str) -> None:
        self._token = get_token() if space_id else None
        address, write_token = (space_id, None) if space_id else parse_trackio_server_url(url)
        token = None if space_id else write_token or os.environ.get("TRACKIO_WRITE_TOKEN")
        self._client = RemoteClient(address, hf_token=self._token, write_token=token, verbose=False)

    def rows(self, project: str, run_id: str) -> dict[str, str] | None:
        """See `Calls`. A server does not list ids."""
        return None

    def delete(self, project: str, run_id: str, ids: Sequence[str]) -> None:
        """See `Calls`. A server deletes no rows."""

    def log(self, entries: Sequence[Entry]) -> None:
        """See `Calls`."""
        # JSON has no NaN and no infinity.
        plain = [{**entry, "metrics": serialize_values(entry["metrics"])} for entry in entries]
        plain = [{**entry, "config": serialize_values(entry["config"])} for entry in plain]
        self._client.predict(api_name="/bulk_log", logs=plain, hf_token=self._token)

    def log_artifact(self, **facts: Any) -> None:
        """See `Calls`."""
        facts["metadata"] = serialize_values(facts["metadata"])
        self._client.predict(api_name="/artifact_log", type=_MODEL, description=None, hf_token=self._token, **facts)
