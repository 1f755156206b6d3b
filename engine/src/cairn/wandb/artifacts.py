"""Uploads committed checkpoints to W&B, each as a version of one artifact of the run, and mirrors what is deleted.

    thread that commits                        thread of its own
    Artifacts -> State.committed, .deleted ->  Worker -> reconcile(State.wanted(), versions in W&B) -> W&B's client

The client hashes files and waits for a server that may not answer: training and its saves wait for neither.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn.errors import ConfigError
from cairn.store import names
from cairn.store.listener import Links, Listener
from cairn.types import Saved
from cairn.units import format_bytes
from cairn.wandb.settings import ArtifactSettings, WhenDeleted, Which

if TYPE_CHECKING:
    from cairn.wandb.state import State
    from cairn.wandb.worker import Executor, Worker

log = logging.getLogger(__name__)


class Artifacts(Listener):
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
        self._run, self._run_directory, self._facts, self._uses = run, run_directory, facts or {}, uses
        self.settings = ArtifactSettings(which, every, deleted, queue_bytes, wait_s)
        self._parts: _Parts | None = None

    def opened(self, directory: Path, kept: Sequence[Saved], links: Links, deleted: Sequence[Saved]) -> None:
        """Upload what W&B lacks of this, and delete there what was deleted without its knowledge.

        Args:
            directory: The checkpoint directory.
            kept: The checkpoints in it.
            links: Where `last.ckpt` and `best.ckpt` point to.
            deleted: Checkpoints that were deleted at this start.

        Raises:
            ConfigError: There is no W&B run.
        """
        run = self._run if self._run is not None else _active_run()
        if run is None:
            raise ConfigError(
                "there is no active W&B run, so that no checkpoint is uploaded: give the trainer a WandbLogger, or "
                "call wandb.init() before trainer.fit()"
            )
        if not getattr(run, "disabled", False):
            self._parts = self._start(run, directory)
            self._parts.state.opened(kept, links, deleted)
            self._parts.worker.refresh()

    def _start(self, run: Any, directory: Path) -> _Parts:
        # Here and not above: these import wandb, which takes a second, and which is not a dependency of the library.
        from cairn.uploads.once import ErrorsOnce
        from cairn.uploads.outbox import Outbox
        from cairn.wandb.deleted import Deleted
        from cairn.wandb.remote import Location, Offline, Online
        from cairn.wandb.state import State
        from cairn.wandb.worker import Executor, Worker

        location = Location(directory, self._run_directory, self._facts)
        errors, remote = ErrorsOnce("W&B"), (Offline if run.offline else Online)(run, location)
        state = State(self.settings, Outbox(directory, names.OUTBOX), Deleted(location.notes), remote.online, errors)
        executor = Executor(remote, state, errors)
        uses = [partial(run.use_artifact, name) for name in self._uses] if remote.online else []
        return _Parts(state, executor, Worker(executor, uses))

    def committed(self, saved: Saved, links: Links) -> None:
        """Upload a checkpoint. Its bytes are kept until then, also if retention deletes it.

        Args:
            saved: The new checkpoint.
            links: Where `last.ckpt` and `best.ckpt` point to now.
        """
        if self._parts is not None:
            self._parts.state.committed(saved, links)
            self._parts.worker.update()

    def deleting(self, names: Sequence[str]) -> None:
        """Remember what is about to be deleted, for a later start of the run.

        Args:
            names: File names of the checkpoints.
        """
        if self._parts is not None:
            self._parts.state.deleting(names)

    def deleted(self, names: Sequence[str]) -> None:
        """Delete (or untag, or keep) the versions of deleted checkpoints.

        Args:
            names: File names of the checkpoints.
        """
        if self._parts is not None:
            self._parts.state.deleted(names)
            self._parts.worker.update()

    def close(self, finished: bool, limit_s: float) -> None:
        """Wait for uploads; log what W&B does not have when the time is over.

        Args:
            finished: The newest checkpoint is the final one.
            limit_s: Maximum time to take, in seconds; `wait_s` may be less.
        """
        if self._parts is None:
            return
        state, worker = self._parts.state, self._parts.worker
        state.finish(finished)
        worker.finish()
        try:
            limit_s = min(limit_s, self.settings.wait_s)
            worker.thread.join_with_progress(limit_s, "W&B", lambda: _left(state.outbox.num_bytes))
        except KeyboardInterrupt:
            log.info("Interrupted: no longer waiting for W&B.")
        if abandoned := worker.thread.is_alive:
            self._parts.executor.abandon()
        if self.settings.which != "none" and (abandoned or worker.missing):
            waiting = sorted(state.outbox.held) or worker.missing
            log.warning(
                "W&B does not have all checkpoints of this run (%s). %s",
                ", ".join(waiting) or "it did not answer in time",
                "Resuming the run uploads the rest."
                if self._run_directory is None
                else f"Upload the rest with: python -m cairn sync {self._run_directory}",
            )


@dataclass(frozen=True)
class _Parts:
    """What works while a run is open."""

    state: State
    executor: Executor
    worker: Worker


def _left(num_bytes: int) -> str:
    return f"{format_bytes(num_bytes)} left to upload" if num_bytes else "its last answer is missing"


def _active_run() -> Any:
    """The W&B run of this process; None if there is none. Without the client there is none, so it is not imported."""
    client = sys.modules.get("wandb")
    return None if client is None else client.run
