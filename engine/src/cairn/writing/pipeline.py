"""The way of a save: a free buffer, the copy, and the commit in the background; or no free buffer, and then what."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Literal

from torch import Tensor

from cairn.errors import SaveError
from cairn.store.commit import CommitPlan, Committed
from cairn.store.history import History
from cairn.store.listener import UNTRACKED, Tracker
from cairn.types import Draft
from cairn.units import size
from cairn.writing.buffers import Buffer, BufferPool, available_bytes
from cairn.writing.copying import Copier
from cairn.writing.encode import Encoded
from cairn.writing.writer import InlineWriter, Writer, WriterProcess

log = logging.getLogger(__name__)

_SHOW_EVERY_S = 5.0
"""Whoever waits for a save for longer is told how far it is."""


WriterKind = Literal["auto", "process", "thread", "sync"]
_LARGE_BYTES = 2**24
"""From here on a process pays: below, a thread is done before training could notice."""


@dataclass(frozen=True)
class Outcome:
    """What became of a save."""

    draft: Draft
    result: Committed | None
    error: str = ""
    """Why it was not committed."""
    at_s: float = 0.0
    """When that was known, on `time.monotonic()`'s clock."""
    device_s: float = 0.0
    """How long a GPU stood still for it, beside the pause that the processor has seen."""


class SavePipeline:
    """Stages states and has them committed, one after the other.

    Args:
        history: knows what is to be done around each of them.
        writer: commits them.
        pool: with two, a save is staged while another is written; with one, a save waits for the one before.
        copier: copies them.
        background: False: `commit` returns when the checkpoint is on the disk.
        tracker: hears of what is committed and deleted.
        sync: lets what belongs to a state, and lies elsewhere, survive a power cut, before the state is committed.
    """

    def __init__(
        self,
        history: History,
        writer: Writer,
        pool: BufferPool,
        copier: Copier,
        background: bool,
        tracker: Tracker = UNTRACKED,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        self.sync = sync
        self.history, self.writer, self.pool, self.copier = history, writer, pool, copier
        self.background, self.tracker = background, tracker
        self._submitted: SimpleQueue[tuple[Buffer, Draft, Mapping[str, Any]] | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._num_open = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        kind: WriterKind,
        num_buffers: int,
        copier: Copier,
        history: History,
        num_bytes: int,
        on_gpu: bool,
        tracker: Tracker = UNTRACKED,
        sync: Callable[[], None] = lambda: None,
    ) -> SavePipeline:
        """Everything that is needed to save states of about `num_bytes`, with the memory for it in place.

        Raises:
            SaveError: there is no memory for it.
        """
        pool = BufferPool(1 if kind == "sync" else _num_that_fit(num_buffers, num_bytes))
        try:
            for buffer in pool.buffers:
                copier.prepare(buffer, num_bytes, on_gpu)
        except MemoryError as error:
            pool.close()
            raise SaveError(str(error)) from error
        beside = kind == "process" or (kind == "auto" and num_bytes >= _LARGE_BYTES)
        writer = _start_process(pool) if beside else InlineWriter()
        return cls(history, writer, pool, copier, background=kind != "sync", tracker=tracker, sync=sync)

    @property
    def busy(self) -> bool:
        """Is a save on its way?"""
        return self._num_open > 0

    def reserve(self, wait: bool) -> Buffer | None:
        """A buffer for a save; if all are in use, wait for one, or None."""
        if wait:
            self._wait_until(lambda: self.pool.has_free)
        return self.pool.take()

    def copy(self, encoded: Encoded, buffer: Buffer, deferrable: Iterable[Tensor]) -> int:
        """Copy a state; returns the size of its file, in bytes. What may be copied later is, until `finish`.

        Raises:
            SaveError: there is no memory for it.
        """
        try:
            self.copier.copy(encoded, buffer, deferrable)
        except MemoryError as error:
            raise SaveError(str(error)) from error
        return buffer.num_bytes

    def submit(self, buffer: Buffer, draft: Draft, provenance: Mapping[str, Any]) -> None:
        """Have a staged state committed; `outcomes` will tell."""
        self.history.add_pending(draft)
        with self._changed:
            self._num_open += 1
        if not self.background:
            self._write(buffer, draft, provenance)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoint-saver", daemon=True)
            self._thread.start()
        self._submitted.put((buffer, draft, provenance))

    def outcomes(self) -> list[Outcome]:
        """What is known since the last call."""
        return [self._outcomes.popleft() for _ in range(len(self._outcomes))]

    def wait(self) -> None:
        """Return when every save is committed, or has failed; if it takes long, tell how far it is."""
        self._wait_until(lambda: not self.busy)

    def close(self) -> None:
        """End the thread, and the writer; after `wait`, or to leave the rest to them."""
        self.copier.close()
        if self._thread is None:
            self._end()
            return
        self._submitted.put(None)
        if not self.busy:
            self._thread.join()

    def _work(self) -> None:
        while (staged := self._submitted.get()) is not None:
            self._write(*staged)
        self._end()

    def _end(self) -> None:
        self.writer.close()
        self.pool.close()

    def _write(self, buffer: Buffer, draft: Draft, provenance: Mapping[str, Any]) -> None:
        result, why, plan = None, "", None
        try:
            buffer.wait()
            self.sync()  # before there is a plan: of one that was not even tried, nothing is deleted
            plan = self.history.plan_commit(draft, provenance)
            told = replace(plan.draft, stall_s=plan.draft.stall_s + buffer.device_s)
            plan = replace(plan, draft=told, blocking=not self.background)
            self.tracker.pruning([*plan.make_room, *plan.to_delete])
            result = self.writer.write(plan, buffer)
        except SaveError as error:
            why = str(error)
        except BaseException as error:  # a mistake in a retention rule, say: as loud as a full disk
            why = _unexpected(draft, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._finish(buffer, draft, plan, result, why)

    def _finish(
        self, buffer: Buffer, draft: Draft, plan: CommitPlan | None, result: Committed | None, why: str
    ) -> None:
        """Whatever happens here: training may wait for the buffer and for the outcome."""
        try:
            self.history.resolve_pending(draft, plan, result)
        except Exception as error:
            result, why = None, why or _unexpected(draft, error)
        if plan is not None:
            self._notify(plan, result)
        outcome = Outcome(draft, result, why, time.monotonic(), buffer.device_s)
        self.pool.give_back(buffer)
        self._outcomes.append(outcome)
        with self._changed:
            self._num_open -= 1
            self._changed.notify_all()

    def _notify(self, plan: CommitPlan, result: Committed | None) -> None:
        try:
            if result is not None:
                self.tracker.committed(result.saved, plan.links)
            if gone := [*plan.make_room, *(plan.to_delete if result else ())]:
                self.tracker.pruned(gone)
        except Exception as error:  # whoever listens: the checkpoint is whole
            log.error("The checkpoint %s could not be tracked: %r.", plan.draft.name, error)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what the end of a save makes so; if it takes long, tell how far it is."""
        with self._changed:
            while not self._changed.wait_for(is_so, _SHOW_EVERY_S):
                done = size(self.writer.progress_bytes)
                log.info(
                    "Waiting for a checkpoint: %s of about %s are written.", done, size(self.pool.buffers[0].num_bytes)
                )


def _unexpected(draft: Draft, error: BaseException) -> str:
    return f"The checkpoint {draft.name} could not be written: {error!r}."


def _num_that_fit(num_buffers: int, num_bytes: int) -> int:
    free = available_bytes()
    if num_buffers == 1 or free is None or num_buffers * num_bytes <= free // 2:
        return num_buffers
    log.warning(
        "%d buffers for checkpoints would take %s, and %s of memory are free: there is one only, so that a save must "
        "wait for the one before. checkpoint.buffers=1 says the same.",
        num_buffers,
        size(num_buffers * num_bytes),
        size(free),
    )
    return 1


def _start_process(pool: BufferPool) -> Writer:
    writer = WriterProcess(pool)
    try:
        writer.start()
    except OSError as error:
        log.warning("No process can be started here (%s): a thread writes the checkpoints, and slows training.", error)
        return InlineWriter()
    return writer
