"""Save pipeline: reserve a buffer, copy the state into it, commit it in the background.

    training thread                      commit thread                          writer process
    ---------------                      -------------                          --------------
    reserve()   take a free buffer
    copy()      state -> buffer
    submit()    --- buffer, draft --->   wait for the rest of the copy
    train on                             plan what to delete, links
                                         --- request: plan, buffer number --->  write the file, fsync
                                                                                manifest, renamed: the commit
                                         <--- progress in bytes ----            links, deletions
                                         <--- result, or an error -------
                                         history, listeners
    outcomes()  <--- outcome, buffer -   buffer is free again

On ranks that write a shard each, only rank 0 commits; the others stop at the file and its report, see store/shard.py.
With writer "thread" the commit thread writes itself; with "sync" the training thread does all of it, within submit().
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from torch import Tensor

from cairn.errors import SaveError
from cairn.store.history import History
from cairn.store.listener import Listeners
from cairn.store.shard import ShardPlan
from cairn.types import Draft
from cairn.units import format_bytes
from cairn.writing.buffers import Buffer, BufferPool, available_bytes
from cairn.writing.committing import Committer, Outcome, ShardWriter, Submitted
from cairn.writing.copying import Copier
from cairn.writing.encode import Encoded
from cairn.writing.options import WriterKind
from cairn.writing.writer import InlineWriter, Writer, WriterProcess

log = logging.getLogger(__name__)

_SHOW_EVERY_S = 5.0
"""Log progress at this interval while waiting for a save."""
_LARGE_BYTES = 2**24
"""Checkpoints from this size on get a process with writer "auto"; below, a thread is done before training notices."""


@dataclass(frozen=True)
class Division:
    """How many processes share a checkpoint."""

    num_shards: int = 1
    num_here: int = 1
    """Those on this machine, which share its memory."""


WHOLE = Division()
"""One process writes all of it."""


class SavePipeline:
    """Copies states into buffers and commits them one after the other.

    Every method except `open` is for the training thread only.

    Args:
        history: Plans each commit (what to delete, which links to set) and keeps track of the result; None: this rank
            only writes shards, which rank 0 commits.
        writer: Writes and commits one checkpoint at a time.
        pool: With two buffers a state is copied while another is written; with one, a save waits for the one before.
        copier: Copies states into buffers.
        background: Commit in a thread; if False, `submit` returns once the checkpoint is committed.
        listeners: Are notified of commits and deletions.
        sync: Makes files that belong to a state, such as metrics, survive a power cut before the state is committed.
    """

    def __init__(
        self,
        history: History | None,
        writer: Writer,
        pool: BufferPool,
        copier: Copier,
        background: bool,
        listeners: Listeners | None = None,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        self.history, self.writer, self.pool, self.copier = history, writer, pool, copier
        self.background = background
        self.committer = (
            ShardWriter(writer)
            if history is None
            else Committer(history, writer, listeners or Listeners(), sync, blocking=not background)
        )
        self._submitted: SimpleQueue[Submitted | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._num_open = self._num_ended = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        kind: WriterKind,
        num_buffers: int,
        copier: Copier,
        history: History | None,
        num_bytes: int,
        on_gpu: bool,
        listeners: Listeners | None = None,
        sync: Callable[[], None] = lambda: None,
        division: Division = WHOLE,
    ) -> SavePipeline:
        """Open a pipeline for states of about `num_bytes`, with its memory in place and its writer started.

        Args:
            kind: What writes: a process, a thread, the training itself ("sync"), or "auto" by size.
            num_buffers: 1 or 2; one if memory is short.
            copier: Copies states into buffers.
            history: Plans each commit; None: this rank only writes shards, which rank 0 commits.
            num_bytes: Expected size of a checkpoint.
            on_gpu: Pin the buffers for a GPU.
            listeners: Are notified of commits and deletions.
            sync: Called before each commit, see the class.
            division: How many processes share a checkpoint, in about equal parts.

        Raises:
            SaveError: There is not enough memory.
        """
        own_bytes = num_bytes // division.num_shards
        pool = BufferPool(1 if kind == "sync" else _num_that_fit(num_buffers, own_bytes * division.num_here))
        try:
            for buffer in pool.buffers:
                copier.prepare(buffer, own_bytes, on_gpu)
        except MemoryError as error:
            pool.close()
            raise SaveError(str(error)) from error
        # However small a shard is: all writers have to outlive their training for the checkpoint to be committed.
        in_process = kind == "process" or (kind == "auto" and num_bytes >= _LARGE_BYTES)
        writer = _start_process(pool) if in_process else InlineWriter()
        return cls(history, writer, pool, copier, background=kind != "sync", listeners=listeners, sync=sync)

    @property
    def busy(self) -> bool:
        """True while a save is not yet committed or given up."""
        return self._num_open > 0

    @property
    def sign(self) -> tuple[int, int]:
        """A value that changes while a save makes progress, and from one save to the next."""
        return self._num_ended, self.writer.progress_bytes

    def reserve(self, wait: bool) -> Buffer | None:
        """Take a buffer for a save.

        Args:
            wait: Block until one is free.

        Returns:
            The buffer; None if all are in use and `wait` is False.
        """
        if wait:
            self._wait_until(lambda: self.pool.has_free)
        return self.pool.take()

    def copy(self, encoded: Encoded, buffer: Buffer, deferrable: Iterable[Tensor]) -> int:
        """Copy a state into a buffer.

        Args:
            encoded: The state.
            buffer: A buffer from `reserve`.
            deferrable: Tensors that may be copied until `copier.finish`, see `copying.optimizer_tensors`.

        Returns:
            Size of the file, in bytes.

        Raises:
            SaveError: There is not enough memory.
        """
        try:
            self.copier.copy(encoded, buffer, deferrable)
        except MemoryError as error:
            raise SaveError(str(error)) from error
        return buffer.num_bytes

    def submit(
        self, buffer: Buffer, draft: Draft, provenance: Mapping[str, Any], shard: ShardPlan | None = None
    ) -> None:
        """Commit a copied state, in the background if so configured; `outcomes` returns the result.

        Args:
            buffer: The buffer that holds it.
            draft: What is known of the checkpoint before its commit.
            provenance: Facts about the run, for the manifest.
            shard: What this rank writes of it, if each rank writes a shard; None: the buffer holds all of it.
        """
        self.committer.expect(draft)
        submitted = Submitted(buffer, draft, provenance, shard)
        with self._changed:
            self._num_open += 1
        if not self.background:
            self._commit(submitted)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._commit_all, name="checkpoint-saver", daemon=True)
            self._thread.start()
        self._submitted.put(submitted)

    def outcomes(self) -> list[Outcome]:
        """Return the saves that ended since the last call."""
        return [self._outcomes.popleft() for _ in range(len(self._outcomes))]

    def wait(self) -> None:
        """Return once every save is committed or has failed; logs progress if that takes long."""
        self._wait_until(lambda: not self.busy)

    def close(self) -> None:
        """End the thread and the writer; saves that are not yet committed are left to them, see `wait`."""
        self.copier.close()
        if self._thread is None:
            self._release()
            return
        self._submitted.put(None)
        if not self.busy:
            self._thread.join()

    def _commit_all(self) -> None:
        """Body of the commit thread."""
        while (submitted := self._submitted.get()) is not None:
            self._commit(submitted)
        self._release()

    def _release(self) -> None:
        self.writer.close()
        self.pool.close()

    def _commit(self, submitted: Submitted) -> None:
        def publish(outcome: Outcome) -> None:
            self.pool.give_back(submitted.buffer)
            self._outcomes.append(outcome)
            with self._changed:
                self._num_open -= 1
                self._num_ended += 1
                self._changed.notify_all()

        self.committer.commit(submitted, publish)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for a condition that the end of a save makes true; log progress if that takes long."""
        with self._changed:
            while not self._changed.wait_for(is_so, _SHOW_EVERY_S):
                written, total = format_bytes(self.writer.progress_bytes), format_bytes(self.pool.buffers[0].num_bytes)
                log.info("Waiting for a checkpoint: %s of about %s are written.", written, total)


def _num_that_fit(num_buffers: int, num_bytes: int) -> int:
    free = available_bytes()
    if num_buffers == 1 or free is None or num_buffers * num_bytes <= free // 2:
        return num_buffers
    log.warning(
        "%d buffers for checkpoints would take %s, which is more than half of the free memory (%s). Using one buffer: "
        "a save waits until the one before is written. Set buffers=1 to silence this warning.",
        num_buffers,
        format_bytes(num_buffers * num_bytes),
        format_bytes(free),
        extra={"parameter": "buffers"},
    )
    return 1


def _start_process(pool: BufferPool) -> Writer:
    writer = WriterProcess(pool)
    try:
        writer.start()
    except OSError as error:
        log.warning("Cannot start a process (%s): a thread writes the checkpoints, which slows training.", error)
        return InlineWriter()
    return writer
