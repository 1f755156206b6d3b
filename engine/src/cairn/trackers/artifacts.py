"""Uploads committed checkpoints to a tracker, each as a version of one artifact, and mirrors what is deleted.

    thread that commits                        thread of its own
    listener -> State.committed, .deleted ->  Worker -> reconcile(State.wanted(), versions there) -> Remote

A client hashes files and waits for a server that may not answer: training and its saves wait for neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.store.listener import Links, Listener
from cairn.trackers.deleted import Deleted
from cairn.trackers.remote import Remote
from cairn.trackers.settings import ArtifactSettings
from cairn.trackers.state import State
from cairn.trackers.worker import Executor, Worker
from cairn.types import Saved
from cairn.units import format_bytes
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.outbox import Outbox

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """The way to the artifact of a run in a tracker."""

    remote: Remote
    notes: Path
    """Folder of our own files about the tracker."""
    outbox: str
    """Name of the folder with what waits for its upload; each tracker has its own."""
    uses: Sequence[Callable[[], Any]] = ()
    """Tasks to do first: record what the run starts from."""


class ArtifactListener(Listener):
    """Uploads the checkpoints of a run to a tracker. A subclass connects to one.

    Args:
        settings: Which checkpoints the tracker should have.
    """

    tracker = ""
    """Name of the tracker, for messages."""

    def __init__(self, settings: ArtifactSettings) -> None:
        self.settings = settings
        self._parts: _Parts | None = None

    def connect(self, directory: Path) -> Connection | None:
        """Return the way to the artifact of the run; None: nothing is uploaded.

        Args:
            directory: The checkpoint directory.

        Raises:
            ConfigError: There is none.
        """
        raise NotImplementedError

    @property
    def rest(self) -> str:
        """A sentence that says how to upload what is missing at the end."""
        return "Resuming the run uploads the rest."

    def opened(self, directory: Path, kept: Sequence[Saved], links: Links, deleted: Sequence[Saved]) -> None:
        """Upload what the tracker lacks of this, and delete there what was deleted without its knowledge.

        Args:
            directory: The checkpoint directory.
            kept: The checkpoints in it.
            links: Where `last.ckpt` and `best.ckpt` point to.
            deleted: Checkpoints that were deleted at this start.

        Raises:
            ConfigError: There is no run to upload them to.
        """
        if (connection := self.connect(directory)) is not None:
            remote, errors = connection.remote, ErrorsOnce(self.tracker)
            outbox, noted = Outbox(directory, connection.outbox), Deleted(connection.notes)
            state = State(self.settings, outbox, noted, remote.online, errors)
            executor = Executor(remote, state, errors)
            self._parts = _Parts(state, executor, Worker(executor, connection.uses))
            state.opened(kept, links, deleted)
            self._parts.worker.refresh()

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
        """Wait for uploads; log what the tracker does not have when the time is over.

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
            worker.thread.join_with_progress(limit_s, self.tracker, lambda: _left(state.outbox.num_bytes))
        except KeyboardInterrupt:
            log.info("Interrupted: no longer waiting for %s.", self.tracker)
        if abandoned := worker.thread.is_alive:
            self._parts.executor.abandon()
        if self.settings.which != "none" and (abandoned or worker.missing):
            waiting = sorted(state.outbox.held) or worker.missing
            log.warning(
                "%s does not have all checkpoints of this run (%s). %s",
                self.tracker,
                ", ".join(waiting) or "it did not answer in time",
                self.rest,
            )


@dataclass(frozen=True)
class _Parts:
    """What works while a run is open."""

    state: State
    executor: Executor
    worker: Worker


def _left(num_bytes: int) -> str:
    return f"{format_bytes(num_bytes)} left to upload" if num_bytes else "its last answer is missing"
