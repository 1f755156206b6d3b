"""One save after the other: reserve a buffer, copy the state, have it committed, report the outcome."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from cairn.account.failures import SaveFailures
from cairn.account.telemetry import Telemetry
from cairn.lightning.logs import loggers
from cairn.store.claim import Claim
from cairn.store.commit import Committed
from cairn.store.history import History
from cairn.store.listener import Listeners
from cairn.store.shard import ShardPlan
from cairn.types import Draft
from cairn.writing import copying
from cairn.writing.buffers import Buffer
from cairn.writing.encode import Encoded
from cairn.writing.options import Writing
from cairn.writing.pipeline import WHOLE, Division, SavePipeline

log = logging.getLogger(__name__)


class Saves:
    """The saves of one fit. Without triggers it is never opened and does nothing, nor on ranks that write no shards.

    Args:
        writing: How checkpoints are written.
        history: What is kept.
        telemetry: Accounts for what saving costs.
        listeners: Informed of commits and deletions.
    """

    def __init__(self, writing: Writing, history: History, telemetry: Telemetry, listeners: Listeners) -> None:
        self.writing, self.history, self.telemetry, self.listeners = writing, history, telemetry, listeners
        self.failures = SaveFailures(writing.max_failed_saves)
        self.claim: Claim | None = None
        """Claim of the checkpoint directory, while a fit may save to it."""
        self.pipeline: SavePipeline | None = None
        self.has_begun = True
        """False after `History.take_over`, until `begin`."""
        self._buffer: Buffer | None = None
        """Reserved for the save that is due."""
        self._leads = True
        self._waited_s = 0.0
        self._hooks: list[RemovableHandle] = []
        self._loggers: Sequence[Logger] = ()

    def begin(self, trainer: Trainer) -> None:
        """The first boundary is reached, so that the start is not refused any more: change what it found."""
        if self.has_begun:
            return
        self.has_begun, history = True, self.history
        loggers.training_begins(trainer)
        deleted = history.tidy()
        self.listeners.opened(history.directory, history.saved, history.links, deleted)

    @property
    def busy(self) -> bool:
        """Whether a save is being written."""
        return self.pipeline is not None and self.pipeline.busy

    @property
    def sign(self) -> object:
        """A value that changes while a save makes progress, for a watchdog; None while none is being written."""
        pipeline = self.pipeline
        return pipeline.sign if pipeline is not None and pipeline.busy else None

    @property
    def num_bytes_under_way(self) -> int:
        """Size of a checkpoint that is being written; 0 while none is."""
        pipeline = self.pipeline
        return max(item.num_bytes for item in pipeline.pool.buffers) if pipeline is not None and pipeline.busy else 0

    @property
    def in_background(self) -> bool:
        """Whether training goes on while a save is written."""
        return self.pipeline is None or self.pipeline.background

    def open(
        self,
        num_bytes: int,
        on_gpu: bool,
        loggers: Sequence[Logger],
        sync: Callable[[], None],
        leads: bool = True,
        division: Division = WHOLE,
    ) -> None:
        """Make buffers for states of about `num_bytes`, and start the writer.

        Args:
            num_bytes: Expected size of a checkpoint.
            on_gpu: Whether the state lies on a GPU.
            loggers: What saves cost is logged there.
            sync: Makes durable what belongs to a checkpoint and lies elsewhere, before it is committed.
            leads: This rank commits; else it writes shards.
            division: How many ranks share the checkpoint.

        Raises:
            SaveError: There is not enough memory.
        """
        writing, copier = self.writing, copying.Copier(self.writing.overlap)
        self._loggers, self._leads = loggers, leads
        history = self.history if leads else None
        self.pipeline = SavePipeline.open(
            writing.writer, writing.buffers, copier, history, num_bytes, on_gpu, self.listeners, sync, division
        )

    def assist(self, rank: int) -> None:
        """Let listeners help rank 0 with the shards that this rank writes, if it writes any."""
        if self.pipeline is not None and not self._leads:
            self.listeners.assist(self.history.directory, rank)

    def finish_copy_before(self, optimizers: Sequence[Optimizer]) -> None:
        """Finish an overlapping copy before each step of the optimizers, which Lightning does not announce."""
        if self.pipeline is not None and self.writing.overlap:
            self._hooks += [item.register_step_pre_hook(lambda *_: self.finish_copy()) for item in optimizers]

    def reserve(self, wait: bool, elapsed_s: float) -> bool:
        """Reserve a buffer for the save that is due; False if all are busy, which counts as a skipped save."""
        if self._buffer is None and self.pipeline is not None:
            if not self._leads:
                self.settle()
            started = time.monotonic()
            self._buffer = self.pipeline.reserve(wait)
            self._waited_s = time.monotonic() - started
            if self._buffer is None:
                self.telemetry.save_skipped(elapsed_s)
        return self._buffer is not None

    @contextmanager
    def stall(self) -> Iterator[tuple[float, float]]:
        """Measure how long training pauses for a save; yields when that began, and how long it waited for a buffer."""
        waited_s, self._waited_s = self._waited_s, 0.0
        started = time.monotonic() - waited_s
        enabled = gc.isenabled()
        gc.disable()  # many small tensors make it look at all of them again and again
        try:
            yield started, waited_s
        finally:
            if enabled:
                gc.enable()
            self.telemetry.meter.record_stall(time.monotonic() - started, waited_s)

    def copy(self, encoded: Encoded, optimizers: Sequence[Optimizer]) -> int:
        """Copy the state into the reserved buffer, after which training may change it; `submit` follows.

        Args:
            encoded: The state.
            optimizers: Their tensors do not change before the next step.

        Returns:
            Size of the file, in bytes.

        Raises:
            SaveError: There is not enough memory.
        """
        pipeline, buffer = self.pipeline, self._buffer
        if pipeline is None or buffer is None:
            raise AssertionError("a buffer is reserved before a state is copied")
        return pipeline.copy(encoded, buffer, copying.optimizer_tensors(optimizers))

    def submit(
        self,
        draft: Draft,
        provenance: Mapping[str, Any],
        stall: tuple[float, float],
        now: bool,
        shard: ShardPlan | None = None,
    ) -> None:
        """Have the copied state committed.

        Args:
            draft: What its manifest will say.
            provenance: What else it will say.
            stall: What `stall` has yielded.
            now: Finish the copy at once, although it may overlap with the next batch.
            shard: What this rank writes, if each rank writes a shard.
        """
        pipeline, buffer = self.pipeline, self._buffer
        assert pipeline is not None
        assert buffer is not None
        started, waited_s = stall
        draft = replace(draft, stall_s=time.monotonic() - started, wait_s=waited_s)
        self._buffer = None
        if self._leads:
            self.telemetry.save_staged()
        if now or not pipeline.background:
            pipeline.copier.finish()
        pipeline.submit(buffer, draft, provenance, shard)

    def finish_copy(self) -> None:
        """Finish a copy that overlaps with the batch: from here on anything may change the weights."""
        if self.pipeline is not None and self.pipeline.copier.overlaps:
            self.telemetry.extend_stall(self.pipeline.copier.finish())

    def settle(self, final: bool = False) -> str:
        """Account for the saves whose outcome is known.

        Args:
            final: Wait for all of them; the last one is the last of the run.

        Returns:
            Why the run must end, or does not end well; empty if neither.
        """
        if self.pipeline is None:
            return ""
        if final:
            self.pipeline.copier.finish()
            self.pipeline.wait()
        if not (outcomes := self.pipeline.outcomes()):
            return ""
        gave_up = ""
        if not self._leads:  # rank 0 learns of a failure by a report, and counts it
            for outcome in outcomes:
                if outcome.error:
                    log.error("%s", outcome.error)
            return ""
        for outcome in outcomes:
            if self.pipeline.background and not final:  # else what it waited for was a part of the pause
                self.telemetry.meter.extend_stall(outcome.device_s)
            last = final and outcome is outcomes[-1]
            if outcome.result is None:
                self.telemetry.save_failed()
                why = self.failures.add(outcome.error, last)
                gave_up = why if last else gave_up or why
                continue
            gave_up = self.failures.reset()
            assert isinstance(outcome.result, Committed)
            self.telemetry.save_committed(outcome.result.saved, outcome.at_s, self._loggers)
            if untidy := outcome.result.cleanup_error:
                if last:
                    return f"{untidy} {outcome.draft.name} is intact; the next start of the run mends the rest."
                log.error("%s %s is intact; the next save tries again.", untidy, outcome.draft.name)
        return gave_up

    def close(self, after: BaseException | None = None) -> str:
        """Wait for the saves under way, and release memory and processes; as `settle`.

        Args:
            after: What the fit has ended with. After an interruption by hand, saves are left to the writer; after an
                error, shards of other ranks are not waited for as long.
        """
        while self._hooks:
            self._hooks.pop().remove()
        if self.pipeline is None:
            return ""
        if isinstance(after, Exception):  # others ask it to stop
            self.pipeline.writer.training_has_ended()
        why = self.settle(final=not isinstance(after, KeyboardInterrupt))
        self.pipeline.close()
        self.pipeline = self._buffer = None
        return why

    def release(self, refused: bool = False) -> None:
        """Let other processes use the directory.

        Args:
            refused: The fit was refused before its first batch: a claim that it has made is taken back.
        """
        claim, self.claim = self.claim, None
        if claim is not None:
            claim.withdraw() if refused else claim.release()
