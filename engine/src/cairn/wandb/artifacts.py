"""Uploads committed checkpoints to W&B, and deletes there what retention deletes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cairn.errors import ConfigError
from cairn.store import names
from cairn.trackers.artifacts import ArtifactListener, Connection
from cairn.trackers.remote import Location
from cairn.trackers.settings import ArtifactSettings, WhenDeleted, Which


class Artifacts(ArtifactListener):
    """Uploads the checkpoints of a run to Weights & Biases.

    Each checkpoint becomes a version of the artifact `model-<id of the W&B run>`, with the aliases `step-<N>`,
    `latest`, `best` and, at the end of the run, `final`. What retention deletes is deleted in W&B as well. Offline, a
    version refers to the file instead of holding its bytes.

        logger = WandbLogger(project="digits", id="a", resume="allow")
        checkpoints = cairn.Checkpointer("runs/a/checkpoints", listeners=[cairn.wandb.Artifacts()])
        trainer = Trainer(logger=logger, callbacks=[checkpoints])

    Args:
        run: The W&B run; None: the one that is active when training starts, made by Lightning's `WandbLogger` or by
            `wandb.init()`.
        which: Upload `all` checkpoints, the `best`, the `final`, or `none`.
        every: With `all`: upload one in this many of those that are neither the best nor the final one.
        deleted: What happens in W&B to the version of a checkpoint that retention deletes: `delete` it, `untag` it
            (remove its aliases), or `keep` it.
        queue_bytes: Maximum size of what waits for its upload, in bytes; a checkpoint beyond it is uploaded at the end
            of the run. None: no limit.
        wait_s: Maximum time that the end of the run waits for uploads, in seconds.
        run_directory: A run directory of the Hydra template, for `python -m cairn sync`.
        facts: Further metadata of each version.
        uses: Artifacts that the run starts from, as `entity/project/name:alias`.

    Raises:
        ConfigError: A value is not one of those above.
    """

    tracker = "W&B"

    def __init__(
        self,
        run: Any = None,
        which: Which = "all",
        every: int = 1,
        deleted: WhenDeleted = "delete",
        queue_bytes: int | None = None,
        wait_s: float = 600.0,
        *,
        run_directory: Path | None = None,
        facts: Mapping[str, Any] | None = None,
        uses: Sequence[str] = (),
    ) -> None:
        super().__init__(ArtifactSettings(which, every, deleted, queue_bytes, wait_s))
        self._run, self._run_directory, self._facts, self._uses = run, run_directory, facts or {}, uses

    def connect(self, directory: Path) -> Connection | None:
        """Return the way to the artifact of the W&B run; None for a run that is disabled.

        Args:
            directory: The checkpoint directory.

        Raises:
            ConfigError: There is no W&B run.
        """
        run = self._run if self._run is not None else _active_run()
        if run is None:
            raise ConfigError(
                "there is no active W&B run, so that no checkpoint is uploaded: give the trainer a WandbLogger, or "
                "call wandb.init() before trainer.fit()"
            )
        if getattr(run, "disabled", False):
            return None
        # Here and not above: these import wandb, which takes a second, and which is not a dependency of the library.
        from cairn.wandb import client
        from cairn.wandb.remote import Offline, Online

        location = Location(directory, self._run_directory, self._facts)
        remote = (Offline if run.offline else Online)(run, location)
        uses = [partial(run.use_artifact, name) for name in self._uses] if remote.online else []
        return Connection(remote, location.notes(client.NAME), names.OUTBOX, uses)

    @property
    def rest(self) -> str:
        """A sentence that says how to upload what is missing at the end."""
        if self._run_directory is None:
            return super().rest
        return f"Upload the rest with: python -m cairn sync {self._run_directory}"


def _active_run() -> Any:
    """The W&B run of this process; None if there is none. Without the client there is none, so it is not imported."""
    client = sys.modules.get("wandb")
    return None if client is None else client.run
