"""Mirrors the committed checkpoints of a run in an object store, with all that a run needs to go on elsewhere.

    thread that commits                     thread of its own
    Mirror -> State.committed, .deleted ->  Uploader: reconcile(State.wanted(), records) -> the store

Training and its saves never wait for the store, except for a bounded time before the first batch and at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from cairn.errors import ConfigError
from cairn.policy.keep import Rule
from cairn.remote import address, start
from cairn.remote.address import Address
from cairn.remote.fetch import Target
from cairn.remote.objects import Objects
from cairn.remote.ranks import Assistant, ShardUploads
from cairn.remote.run_files import RunFiles
from cairn.remote.session import Session, open_at_start
from cairn.remote.settings import GRACE_S, QUEUE_BYTES, WAIT_S, MirrorSettings
from cairn.remote.state import State
from cairn.remote.uploader import Uploader
from cairn.store import names
from cairn.store.listener import Links, Listener
from cairn.types import Mode, Saved
from cairn.units import format_bytes
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.outbox import Outbox
from cairn.uploads.thread import WakingThread

log = logging.getLogger(__name__)

_CHANGE, _END = "change", "end"
_LAST_ANSWER_S = 1.0
"""Maximum time that the end waits for the request under way, in seconds."""
_MOST_NAMED = 5


class Mirror(Listener):
    """Keeps a copy of the checkpoints of a run in an object store, from which it goes on where its disk is lost.

        mirror = cairn.remote.Mirror("s3://bucket/runs/a", run_directory="runs/a")
        checkpoints = cairn.Checkpointer("runs/a/checkpoints", listeners=[mirror])
        trainer.fit(model, loader, ckpt_path=checkpoints.resume())

    Each committed checkpoint is uploaded in the background. What retention deletes is deleted in the mirror as well,
    once a newer checkpoint is there. An address belongs to one run. If the store fails, training continues, and the
    upload is tried again.

    Args:
        where: Address of the run: `s3://bucket/prefix/RUN`, `gs://`, `az://` or `file:///directory`.
        every: Mirror one in this many of those that are neither the best nor the final one.
        keep: How many of the newest the mirror keeps, with the best and the final one; -1: all; None: those that the
            local disk keeps.
        queue_bytes: Maximum size of what waits for its upload, in bytes; a checkpoint beyond it is mirrored only while
            the local disk keeps it. None: no limit.
        wait_s: Maximum time that the end of the run waits for uploads, in seconds.
        grace_s: The same after a signal: the run is saved on its own disk then, and SIGKILL may come next.
        run_directory: Directory whose files travel with the checkpoints: configuration, metrics. None: none do.

    Raises:
        ConfigError: A value is not one of those above.
    """

    def __init__(
        self,
        where: str,
        *,
        every: int = 1,
        keep: int | None = None,
        queue_bytes: int | None = QUEUE_BYTES,
        wait_s: float = WAIT_S,
        grace_s: float = GRACE_S,
        run_directory: str | PathLike[str] | None = None,
    ) -> None:
        self.address: Address = address.parse(where)
        self.settings = MirrorSettings(every, keep, queue_bytes, wait_s, grace_s)
        self.wait_s, self.grace_s = wait_s, grace_s
        self.run_directory = None if run_directory is None else Path(run_directory).absolute()
        self.run_elsewhere = ""
        self._session: Session | None = None
        self._parts: _Parts | None = None
        self._assistant: Assistant | None = None
        self.trouble = ""
        """Why the store could not be reached a moment ago: `begin` does not wait for it again."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has, by `copy` or `pickle`: the arguments, and nothing of a fit."""
        return {**vars(self), "_session": None, "_parts": None, "_assistant": None}

    @classmethod
    def with_settings(cls, where: Address, settings: MirrorSettings, run_directory: Path, trouble: str) -> Mirror:
        """Return a mirror with settings and a `trouble` that come from elsewhere."""
        made = cls(str(where), **vars(settings), run_directory=run_directory)
        made.trouble = trouble
        return made

    def bring(self, directory: Path, local: Saved | None, rules: Sequence[Rule], mode: Mode | None) -> Saved | None:
        """Bring the newest intact checkpoint of the mirror, if it is newer; see `Listener.bring`."""
        target = Target(directory, self.run_directory, (rules, mode))
        found = start.look(self.address)
        self.run_elsewhere = found.run
        found.check_run(local.run if local is not None else "")
        brought, self.trouble = found.bring(target, local)
        return brought

    def begin(self, directory: Path, run: str, has_checkpoint: bool) -> None:
        """Check before training that the mirror can be used, and that it is not that of another run.

        Args:
            directory: The checkpoint directory.
            run: Id of the run.
            has_checkpoint: Whether the run goes on from a checkpoint on the local disk.

        Raises:
            ConfigError: The bucket is missing, access is refused, the mirror belongs to another run or lies in its
                directory, or it cannot be reached and the run would begin without knowing what is in it.
        """
        address.check_apart(self.address, directory, self.run_directory)
        name = self.run_directory.name if self.run_directory is not None else directory.parent.name
        if self._session is not None and self._session.run == run:  # another fit of the same process
            return
        session = Session(self.address, run, name)
        open_at_start(session, has_checkpoint, self.trouble)
        self._session, self.trouble = session, ""
        ShardUploads(directory).close()  # what a killed start has left would keep the other ranks at the end

    def opened(self, directory: Path, kept: Sequence[Saved], links: Links, deleted: Sequence[Saved]) -> None:
        """Upload what the mirror lacks, and delete there what retention has deleted here; see `Listener.opened`."""
        directory = directory.absolute()  # the program may change its working directory
        if self._session is None:
            raise ConfigError("Mirror.begin was not called: use this listener with a Checkpointer.")
        if self._parts is not None:  # another fit of the same process goes on with the same checkpoints
            self._parts.abandon()
        errors = ErrorsOnce("Mirror")
        state = State(self.settings, Outbox(directory, names.MIRROR_OUTBOX), errors)
        files = RunFiles(self.run_directory, directory, errors)
        shards = ShardUploads(directory)
        uploader = Uploader(self._session, state, files, shards, errors)
        log.info("Checkpoints are mirrored to %s", self.address)
        state.opened(kept, links)
        self._parts = _Parts(state, uploader, shards)
        self._parts.start()

    def assist(self, directory: Path, rank: int) -> None:
        """Upload the shards of this rank when rank 0 asks for it; see `Listener.assist`."""
        if self._assistant is not None:  # of an earlier fit of this process
            self._assistant.close(0.0)
        self._assistant = Assistant(directory.absolute(), rank, lambda: Objects(self.address))

    def committed(self, saved: Saved, links: Links) -> None:
        """Upload a checkpoint; see `Listener.committed`."""
        if self._parts is not None:
            self._parts.state.committed(saved, links)
            self._parts.thread.wake(_CHANGE)

    def deleted(self, names: Sequence[str]) -> None:
        """Delete checkpoints in the mirror as well; see `Listener.deleted`."""
        if self._parts is not None:
            self._parts.state.deleted(names)
            self._parts.thread.wake(_CHANGE)

    def close(self, finished: bool, limit_s: float) -> None:
        """Wait for uploads; log what is where.

        Args:
            finished: The newest checkpoint is the final one.
            limit_s: Maximum time to take, in seconds; `wait_s`, or `grace_s` if the run was stopped, may be less.
        """
        # A run that has failed, or reached its max_time, is not finished either, and has more time.
        is_stopped = not finished and limit_s <= max(GRACE_S, self.grace_s)
        limit_s = min(limit_s, self.grace_s if is_stopped else self.wait_s)
        if self._assistant is not None:
            self._assistant.close(limit_s)
        if self._parts is None:
            return
        parts, self._parts = self._parts, None
        parts.end(limit_s, hurries=is_stopped)
        _report(self.address, parts, self.run_directory, finished)


class _Parts:
    """What works while a run is open."""

    def __init__(self, state: State, uploader: Uploader, shards: ShardUploads) -> None:
        self.state, self.uploader, self._shards = state, uploader, shards
        self.thread = WakingThread("cairn-mirror", self._work)

    def start(self) -> None:
        """Begin to upload."""
        self._shards.open()
        self.thread.start()

    def end(self, limit_s: float, hurries: bool) -> None:
        """Upload what is left, for a limited time.

        Args:
            limit_s: Maximum time to wait, in seconds.
            hurries: The newest checkpoint comes first.
        """
        self.state.finish()
        self.uploader.end(hurries)
        self.thread.wake(_END)
        try:
            self.thread.join_with_progress(limit_s, "the mirror", lambda: _left(self.uploader))
        except KeyboardInterrupt:
            log.info("Interrupted: no longer waiting for the mirror.")
        self.abandon()

    def abandon(self) -> None:
        """Upload nothing more."""
        if self.thread.is_alive:
            self.uploader.abandon()
            self.thread.wake(_END)
            self.thread.join(_LAST_ANSWER_S)
        self._shards.close()

    def _work(self, thread: WakingThread) -> None:
        left_s = self.uploader.work()
        while _END not in thread.take(left_s):
            left_s = self.uploader.work()
        self.uploader.finish()


def _left(uploader: Uploader) -> str:
    num_bytes = uploader.left_bytes
    return f"{format_bytes(num_bytes)} left to upload" if num_bytes else "all data is sent"


def _report(where: Address, parts: _Parts, run: Path | None, finished: bool) -> None:
    """Log what is where at the end of a run."""
    state, uploader = parts.state, parts.uploader
    missing, newest = [saved.name for saved in uploader.missing()], uploader.newest
    there = newest.name if newest else "none" if uploader.is_listed else "not known"
    num_skipped = state.num_skipped
    skipped = f" Replaced by newer ones before they were uploaded: {num_skipped}." if num_skipped else ""
    if not missing:
        log.info("Mirrored to %s: its newest checkpoint is %s.%s", where, there, skipped)
        return
    log.warning(
        "%s does not have all checkpoints of this run (%s). The newest there is %s; the newest on the local disk is %s."
        "%s %s",
        where,
        _shown(missing),
        there,
        state.newest.name if state.newest else "none",
        skipped,
        "This process has stopped mirroring, see above." if uploader.has_stopped else _cure(where, run, finished),
    )


def _shown(missing: Sequence[str]) -> str:
    more = len(missing) - _MOST_NAMED
    return ", ".join(missing[-_MOST_NAMED:]) + (f", and {more} older ones" if more > 0 else "")


def _cure(where: Address, run: Path | None, finished: bool) -> str:
    if finished and run is not None and (run / "run.json").exists():  # it is not resumed
        return f"Upload the rest with: python -m cairn push {run} {where}"
    return "Resuming the run uploads the rest."
