"""A logger for MLflow: a resumed run continues the same MLflow run, and each row is there once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment

from cairn.mlflow.store import MLFlowStore, RunName, metric_name
from cairn.mlflow.target import target
from cairn.store.listener import Listener
from cairn.trackers.identity import Identity
from cairn.trackers.logger import RowLogger
from cairn.trackers.settings import ArtifactSettings

_CONNECT_S = 30.0
"""Maximum time that `experiment` waits for MLflow."""


class MLFlowLogger(RowLogger):
    """Logs metrics to MLflow: to a SQLite file, a database or a server.

    Args:
        save_dir: The run directory, which keeps a journal of all rows.
        tracking_uri: Where MLflow keeps the run; None: `MLFLOW_TRACKING_URI`, or else the file `mlflow.db` in
            `store_dir`. It is stored with the run: credentials belong into the environment.
        store_dir: Folder of the SQLite file and of its artifacts; None: `mlflow` in the run directory.
        experiment: Name of the experiment, which is created if it is missing.
        name: Name of a new run; None: MLflow chooses one.
        id: Id of the run, by which a resume finds it; None: it is chosen at the first start.
        tags: Tags of a new run; of a list, each item is a tag with the value `true`.
        prefix: Put in front of the name of each metric, with a slash.

    Raises:
        ConfigError: MLflow is not installed, or the URI holds credentials.
    """

    tracker = "MLflow"

    def __init__(
        self,
        save_dir: str | Path,
        tracking_uri: str | None = None,
        store_dir: str | Path | None = None,
        experiment: str = "lightning",
        name: str | None = None,
        id: str | None = None,
        tags: Mapping[str, str] | Sequence[str] | str | None = None,
        prefix: str = "",
    ) -> None:
        folder, self._may_wait = Path(save_dir) / "mlflow", True
        # A configuration may have numbers for names.
        self._experiment_name, self._run_name = str(experiment), None if name is None else str(name)
        self._tags = as_tags(tags)
        identity = Identity(folder, id)
        self.store = MLFlowStore(target(tracking_uri, Path(store_dir) if store_dir else folder), self._named)
        super().__init__(folder, self.store, identity, prefix)

    def _named(self) -> RunName:
        return RunName(self._experiment_name, self._identity.id, self._run_name, self._tags)

    @property
    def name(self) -> str:
        return self._experiment_name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client. Its first use waits half a minute for MLflow; until it is reached, calls do nothing."""
        return _Client(self)

    @property
    def run_id(self) -> str:
        """MLflow's id of the run, for calls of `experiment`; empty if MLflow is not reached."""
        return self.store.run_id if self.is_connected else ""

    @property
    def is_connected(self) -> bool:
        """Whether MLflow is reached. The first time, this waits half a minute for it."""
        if self.store.client is None and self._may_wait:
            self._may_wait = False
            self.connected(_CONNECT_S)
        return self.store.client is not None

    def listener(self, settings: ArtifactSettings, run: Path, facts: Mapping[str, Any]) -> Listener:
        from cairn.mlflow.artifacts import Artifacts

        return Artifacts(self, **asdict(settings), run_directory=run, facts=facts)


class _Client:
    """MLflow's client when it is used. Lightning asks for the `experiment` of each logger when a fit begins."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._logger.store.client if self._logger.is_connected else DummyExperiment(), name)


def as_tags(tags: Mapping[str, str] | Sequence[str] | str | None) -> dict[str, str]:
    """Return tags by names that MLflow accepts: it would otherwise refuse the run."""
    if not isinstance(tags, Mapping):
        tags = dict.fromkeys([tags] if isinstance(tags, str) else tags or (), "true")
    return {metric_name(str(key)): str(value) for key, value in tags.items()}
