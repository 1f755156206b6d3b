"""Where Trackio keeps a run: the SQLite files of a folder, a Space of Hugging Face, or a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cairn import extras
from cairn.errors import ConfigError
from cairn.trackers.secrets import SECRET, has_secret

_FOLDER, _SERVER, _SPACE = "TRACKIO_DIR", "TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"


@dataclass(frozen=True)
class Target:
    """A place for runs: a Space, a server, or the folder if both are empty."""

    folder: Path
    space_id: str = ""
    given_url: str = ""
    """Server from the configuration, which holds no token."""

    @property
    def server_url(self) -> str:
        """Address of a server; empty for a Space or a folder. It may hold a token, and is not kept anywhere."""
        return "" if self.space_id else self.given_url or os.environ.get(_SERVER, "")

    @property
    def is_local(self) -> bool:
        """Whether the rows are in SQLite files on this machine."""
        return not self.space_id and not self.server_url

    @contextmanager
    def prepared(self) -> Iterator[Path]:
        """Let Trackio use the folder while it is imported, which is when it reads the variable.

        Yields:
            The folder: `TRACKIO_DIR`, if the user has set it.
        """
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        given = os.environ.get(_FOLDER)
        folder = Path(given) if given else self.folder.absolute()
        os.environ[_FOLDER] = str(folder)
        try:
            yield folder
        finally:
            if given is None:  # the next run in this process may have another folder
                del os.environ[_FOLDER]


def target(server_url: str | None, space_id: str | None, store_dir: Path) -> Target:
    """Return where Trackio keeps a run.

    Args:
        server_url: From the configuration. It is stored with the run, so that it must not hold a token.
        space_id: A Space, which must exist.
        store_dir: Folder of the SQLite files that are used if nothing else is set.

    Raises:
        ConfigError: Trackio is not installed, or the address holds a token.
    """
    if server_url and has_secret(server_url):
        raise ConfigError(SECRET.format(key="server_url"), parameter="server_url")
    if find_spec("trackio") is None:
        raise ConfigError(f"Trackio is not installed: {extras.how_to_install('trackio')}")
    return Target(store_dir, space_id or ("" if server_url else os.environ.get(_SPACE, "")), server_url or "")
