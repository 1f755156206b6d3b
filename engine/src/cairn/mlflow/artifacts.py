"""Uploads committed checkpoints to MLflow, and deletes there what retention deletes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cairn.mlflow.logger import MLFlowLogger
from cairn.mlflow.remote import MLFlowRemote
from cairn.store import names
from cairn.trackers.artifacts import ArtifactListener, Connection
from cairn.trackers.remote import Location
from cairn.trackers.settings import ArtifactSettings, WhenDeleted, Which


class Artifacts(ArtifactListener):
    """Uploads the checkpoints of a run to MLflow, as artifacts of the run, in the folder `checkpoints`.

    They stay the files that they are: nothing is pickled. Tags of the run say which one is the `latest`, the `best`
    and, at the end of the run, the `final` one. Where the artifacts are on this machine, a checkpoint is a hard link.

        logger = cairn.mlflow.MLFlowLogger("runs/a")
        checkpoints = cairn.Checkpointer("runs/a/checkpoints", listeners=[cairn.mlflow.Artifacts(logger)])

    Args:
        logger: The logger of the run.
        which: Upload `all` checkpoints, the `best`, the `final`, or `none`.
        every: With `all`: upload one in this many of those that are neither the best nor the final one.
        deleted: What happens in MLflow to a checkpoint that retention deletes: `delete` it, `untag` it, or `keep` it.
        queue_bytes: Maximum size of what waits for its upload, in bytes; a checkpoint beyond it is uploaded at the end
            of the run. None: no limit.
        wait_s: Maximum time that the end of the run waits for uploads, in seconds.
        run_directory: A run directory of the Hydra template.
        facts: Further metadata of each checkpoint.

    Raises:
        ConfigError: A value is not one of those above.
    """

    tracker = "MLflow"

    def __init__(
        self,
        logger: MLFlowLogger,
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
        """Return the way to the artifacts of the run.

        Args:
            directory: The checkpoint directory.
        """
        location = Location(directory, self._run_directory, self._facts)
        return Connection(MLFlowRemote(self._logger.store, location), location.notes("mlflow"), names.MLFLOW_OUTBOX)
