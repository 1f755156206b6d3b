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
from cairn.store.commit import Job, Result
from cairn.store.history import History
from cairn.store.listener import Listeners
from cairn.types import Saved
from cairn.units import size
from cairn.writing.buffers import Image, Images, available_bytes
from cairn.writing.copying import Stage
from cairn.writing.encode import Encoded
from cairn.writing.writer import Writer, WriterHere, WriterProcess

log = logging.getLogger(__name__)

_SHOW_EVERY_S = 5.0
"""Whoever waits for a save for longer is told how far it is."""


@dataclass(frozen=True)
class Outcome:
    """What became of a save."""

    draft: Saved
    result: Result | None
    error: str = ""
    """Why it was not committed."""
    at_s: float = 0.0
    """When that was known, on `time.monotonic()`'s clock."""
    device_s: float = 0.0
    """How long a GPU stood still for it, beside the pause that the processor has seen."""


class Saver:
    """Stages states and has them committed, one after the other.

    Args:
        history: knows what is to be done around each of them.
        writer: commits them.
        images: with two, a save is staged while another is written; with one, a save waits for the one before.
        stage: copies them.
        background: False: `commit` returns when the checkpoint is on the disk.
        listeners: informed of what is committed and deleted.
        sync: lets what belongs to a state, and lies elsewhere, survive a power cut, before the state is committed.
    """

    def __init__(
        self,
        history: History,
        writer: Writer,
        images: Images,
        stage: Stage,
        background: bool,
        listeners: Listeners | None = None,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        self.sync = sync
        self.history, self.writer, self.images, self.stage = history, writer, images, stage
        self.background, self.listeners = background, listeners or Listeners()
        self._staged: SimpleQueue[tuple[Image, Saved, Mapping[str, Any]] | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._num_open = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Is a save on its way?"""
        return self._num_open > 0

    def reserve(self, wait: bool) -> Image | None:
        """A buffer for a save; if all are in use, wait for one, or None."""
        if wait:
            self._wait_until(lambda: self.images.has_free)
        return self.images.take()

    def copy(self, encoded: Encoded, image: Image, steady: Iterable[Tensor]) -> int:
        """Stage a state; returns the size of its file, in bytes. What may be copied later is, until `finish`.

        Raises:
            SaveError: there is no memory for it.
        """
        try:
            self.stage.copy(encoded, image, steady)
        except MemoryError as error:
            raise SaveError(str(error)) from error
        return image.num_bytes

    def commit(self, image: Image, draft: Saved, provenance: Mapping[str, Any]) -> None:
        """Have a staged state committed; `outcomes` will tell."""
        self.history.expect(draft)
        with self._changed:
            self._num_open += 1
        if not self.background:
            self._perform(image, draft, provenance)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoint-saver", daemon=True)
            self._thread.start()
        self._staged.put((image, draft, provenance))

    def outcomes(self) -> list[Outcome]:
        """What is known since the last call."""
        return [self._outcomes.popleft() for _ in range(len(self._outcomes))]

    def wait(self) -> None:
        """Return when every save is committed, or has failed; if it takes long, tell how far it is."""
        self._wait_until(lambda: not self.busy)

    def close(self) -> None:
        """End the thread, and the writer; after `wait`, or to leave the rest to them."""
        self.stage.close()
        if self._thread is None:
            self._end()
            return
        self._staged.put(None)
        if not self.busy:
            self._thread.join()

    def _work(self) -> None:
        while (staged := self._staged.get()) is not None:
            self._perform(*staged)
        self._end()

    def _end(self) -> None:
        self.writer.close()
        self.images.close()

    def _perform(self, image: Image, draft: Saved, provenance: Mapping[str, Any]) -> None:
        result, why, job = None, "", None
        try:
            image.wait()
            self.sync()  # before there is a job: of one that was not even tried, nothing is deleted
            job = self.history.job(draft, provenance)
            told = replace(job.draft, stall_s=job.draft.stall_s + image.device_s)
            job = replace(job, draft=told, blocking=not self.background)
            self.listeners.deleting([*job.room, *job.gone])
            result = self.writer.perform(job, image)
        except SaveError as error:
            why = str(error)
        except BaseException as error:  # a mistake in a retention rule, say: as loud as a full disk
            why = _unexpected(draft, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._conclude(image, draft, job, result, why)

    def _conclude(self, image: Image, draft: Saved, job: Job | None, result: Result | None, why: str) -> None:
        """Whatever happens here: training may wait for the buffer and for the outcome."""
        try:
            self.history.done(draft, job, result)
        except Exception as error:
            result, why = None, why or _unexpected(draft, error)
        if job is not None:
            self._announce(job, result)
        outcome = Outcome(draft, result, why, time.monotonic(), image.device_s)
        self.images.give_back(image)
        self._outcomes.append(outcome)
        with self._changed:
            self._num_open -= 1
            self._changed.notify_all()

    def _announce(self, job: Job, result: Result | None) -> None:
        if result is not None:
            self.listeners.committed(result.saved, job.links)
        if gone := [*job.room, *(job.gone if result else ())]:
            self.listeners.deleted(gone)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what the end of a save makes so; if it takes long, tell how far it is."""
        with self._changed:
            while not self._changed.wait_for(is_so, _SHOW_EVERY_S):
                done = size(self.writer.progress_bytes)
                log.info(
                    "Waiting for a checkpoint: %s of about %s are written.", done, size(self.images.all[0].num_bytes)
                )


def _unexpected(draft: Saved, error: BaseException) -> str:
    return f"The checkpoint {draft.name} could not be written: {error!r}."


WriterKind = Literal["auto", "process", "thread", "sync"]
_LARGE_BYTES = 2**24
"""From here on a process pays: below, a thread is done before training could notice."""


def saver(
    kind: WriterKind,
    num_images: int,
    stage: Stage,
    history: History,
    num_bytes: int,
    on_gpu: bool,
    listeners: Listeners | None = None,
    sync: Callable[[], None] = lambda: None,
) -> Saver:
    """Everything that is needed to save states of about `num_bytes`, with the memory for it in place.

    Raises:
        SaveError: there is no memory for it.
    """
    images = Images(1 if kind == "sync" else _that_fit(num_images, num_bytes))
    try:
        for image in images.all:
            stage.prepare(image, num_bytes, on_gpu)
    except MemoryError as error:
        images.close()
        raise SaveError(str(error)) from error
    beside = kind == "process" or (kind == "auto" and num_bytes >= _LARGE_BYTES)
    writer = _process(images) if beside else WriterHere()
    return Saver(history, writer, images, stage, background=kind != "sync", listeners=listeners, sync=sync)


def _that_fit(num_images: int, num_bytes: int) -> int:
    free = available_bytes()
    if num_images == 1 or free is None or num_images * num_bytes <= free // 2:
        return num_images
    log.warning(
        "%d buffers for checkpoints would take %s, and %s of memory are free: there is one only, so that a save must "
        "wait for the one before. checkpoint.buffers=1 says the same.",
        num_images,
        size(num_images * num_bytes),
        size(free),
    )
    return 1


def _process(images: Images) -> Writer:
    writer = WriterProcess(images)
    try:
        writer.start()
    except OSError as error:
        log.warning("No process can be started here (%s): a thread writes the checkpoints, and slows training.", error)
        return WriterHere()
    return writer
