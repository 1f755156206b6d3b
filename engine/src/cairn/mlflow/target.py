"""Where MLflow keeps a run: a server, a database, or the SQLite file that is the default."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cairn import extras
from cairn.errors import ConfigError
from cairn.trackers.secrets import SECRET, has_secret

_VARIABLE = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class Target:
    """A place for runs.

    Args:
        uri: Address of the server, URI of the database, or path.
    """

    uri: str = field(repr=False)
    """It may hold a password, if it comes from the environment."""

    @property
    def database(self) -> Path | None:
        """The SQLite file, whose rows can be deleted; None for everything else."""
        path = self.uri.removeprefix(_SQLITE).partition("?")[0]
        return Path(path) if self.uri.startswith(_SQLITE) and path else None

    @property
    def artifacts(self) -> str | None:
        """Where a new experiment keeps its artifacts; None: MLflow decides."""
        return None if self.database is None else (self.database.absolute().parent / "artifacts").as_uri()


def target(tracking_uri: str | None, store_dir: Path) -> Target:
    """Return where MLflow keeps a run.

    Args:
        tracking_uri: From the configuration. It is stored with the run, so that it must not hold credentials.
        store_dir: Folder of the SQLite file that is used if nothing else is set.

    Raises:
        ConfigError: MLflow is not installed, or the URI holds credentials.
    """
    if tracking_uri and has_secret(tracking_uri):
        raise ConfigError(SECRET.format(key="tracking_uri"), parameter="tracking_uri")
    uri = tracking_uri or os.environ.get(_VARIABLE) or f"{_SQLITE}{(store_dir / 'mlflow.db').absolute()}"
    needed = ["mlflow"]
    if uri.partition(":")[0].partition("+")[0] in _DATABASES:
        needed += ["sqlalchemy", "alembic", "sqlparse", "cryptography"]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(f"MLflow needs {', '.join(missing)}: {extras.how_to_install('mlflow')}")
    return Target(uri)
