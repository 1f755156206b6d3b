"""What becomes of a copied state: rank 0 commits it and reports that; another rank writes its shard."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cairn.errors import SaveError
from cairn.store import shard, sharded_commit
from cairn.store.commit import CommitPlan, Committed
from cairn.store.history import History
from cairn.store.listener import Listeners
from cairn.store.shard import Abandoned, Report, ShardPlan
from cairn.types import Draft
from cairn.writing.buffers import Buffer
from cairn.writing.writer import Writer

log = logging.getLogger(__name__)

_NUM_ABANDONED = 8
"""A rank is at most two saves late."""


@dataclass(frozen=True)
class Submitted:
    """A copied state on its way to a checkpoint."""

    buffer: Buffer
    """The buffer that holds the file."""
    draft: Draft
    """What is known of the checkpoint before its commit."""
    provenance: Mapping[str, Any]
    """Facts about the run, for the manifest."""
    shard: ShardPlan | None = None
    """What this rank writes of it, if each rank writes a shard; None: all of it."""


@dataclass(frozen=True)
class Outcome:
    """How a save ended."""

    draft: Draft
    result: Committed | Report | None
    """A report on the ranks that write shards for rank 0; None: it failed."""
    error: str = ""
    """Why it was not committed; empty if it was, and on the other ranks if rank 0 has given it up."""
    at_s: float = 0.0
    """End of the save, on the clock of `time.monotonic()`."""
    device_s: float = 0.0
    """Seconds that a GPU stood still for it, in addition to the pause of the processor."""


class ShardWriter:
    """Writes one shard after the other for rank 0, which commits them; used on the other ranks.

    Args:
        writer: Writes one file at a time.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def expect(self, draft: Draft) -> None:
        """Do nothing: only rank 0 keeps track of checkpoints."""

    def commit(self, submitted: Submitted, publish: Callable[[Outcome], None]) -> None:
        """Write a shard once its copy is complete; if that fails, rank 0 learns of it.

        Args:
            submitted: The state.
            publish: Is called with the outcome, whatever happens.
        """
        buffer, draft, plan = submitted.buffer, submitted.draft, submitted.shard
        assert plan is not None
        result, why = None, ""
        try:
            buffer.wait()
            result = self.writer.write(plan, buffer)
        except Abandoned as error:  # rank 0 has counted and reported the failure
            log.info("%s", error)
        except SaveError as error:
            why = str(error)
        except BaseException as error:
            why = _unexpected(draft, error)
            if not isinstance(error, Exception):
                raise
        finally:
            if why:
                shard.report_failure(plan, why)
            publish(Outcome(draft, result, why, time.monotonic(), buffer.device_s))


class Committer:
    """Commits one checkpoint after the other; called in the commit thread, or in the training thread.

    Args:
        history: Plans each commit (what to delete, which links to set) and keeps track of the result.
        writer: Writes and commits one checkpoint at a time.
        listeners: Are notified of commits and deletions.
        sync: Makes files that belong to a state, such as metrics, survive a power cut before the state is committed.
        blocking: Training waits for the commit.
    """

    def __init__(
        self, history: History, writer: Writer, listeners: Listeners, sync: Callable[[], None], blocking: bool
    ) -> None:
        self.history, self.writer, self.listeners = history, writer, listeners
        self.sync, self.blocking = sync, blocking
        self._abandoned: deque[str] = deque(maxlen=_NUM_ABANDONED)
        """What stops late ranks in saves that failed."""

    def expect(self, draft: Draft) -> None:
        """Register a checkpoint that is about to be written."""
        self.history.add_pending(draft)

    def commit(self, submitted: Submitted, publish: Callable[[Outcome], None]) -> None:
        """Commit a checkpoint once its copy is complete.

        Args:
            submitted: The state.
            publish: Is called with the outcome, whatever happens: training may wait for it without a time limit.
        """
        buffer, draft, own = submitted.buffer, submitted.draft, submitted.shard
        result, why, plan = None, "", None
        try:
            buffer.wait()
            self.sync()  # before the plan exists: if this fails, nothing may be deleted
            if self.history.permit is not None:  # where the directory is gone, its checkpoints are not deleted
                self.history.permit.check(draft.name)
            plan = self.history.plan_commit(draft, submitted.provenance)
            with_stall = replace(plan.draft, stall_s=plan.draft.stall_s + buffer.device_s)
            plan = replace(plan, draft=with_stall, blocking=self.blocking, shard=own, abandoned=tuple(self._abandoned))
            self.listeners.deleting([*plan.make_room, *plan.to_delete])
            result = self.writer.write(plan, buffer)
        except SaveError as error:
            why = str(error)
        except BaseException as error:  # a bug in a user's keep rule, for example: reported like a full disk
            why = _unexpected(draft, error)
            if not isinstance(error, Exception):
                raise
        finally:
            if own is not None and result is None:
                sharded_commit.discard(own)
                self._abandoned.append(own.folder.name)
            elif own is not None:
                self._abandoned.clear()
            publish(self._report_end(buffer, draft, plan, result, why))

    def _report_end(
        self, buffer: Buffer, draft: Draft, plan: CommitPlan | None, result: Committed | None, why: str
    ) -> Outcome:
        """Report the end of a save to the history and to listeners; their errors do not stop it."""
        try:
            self.history.resolve_pending(draft, plan, result)
        except Exception as error:
            result, why = None, why or _unexpected(draft, error)
        if plan is not None:
            self._notify_listeners(plan, result)
        return Outcome(draft, result, why, time.monotonic(), buffer.device_s)

    def _notify_listeners(self, plan: CommitPlan, result: Committed | None) -> None:
        if result is not None:
            self.listeners.committed(result.saved, plan.links)
        if deleted := [*plan.make_room, *(plan.to_delete if result else ())]:
            self.listeners.deleted(deleted)


def _unexpected(draft: Draft, error: BaseException) -> str:
    return f"The checkpoint {draft.name} could not be written: {error!r}."
