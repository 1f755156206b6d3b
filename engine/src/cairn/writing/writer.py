"""Writers: they commit a checkpoint from a buffer, in this process or in a separate one.

A thread that hashes and writes competes with training for Python's lock, and training loses several times what the
snapshot costs. A separate process uses another core.

The protocol between the training process and the writer process, over a pipe:

    training -> writer   Request(plan, buffer number, size)      None: end       Ended: do not wait long for other ranks
    writer -> training   bytes written so far, every 0.2 s       a sentence: a warning
                         Committed or an exception: done

Neither trusts the pipe alone to notice that the other one died: a process that was forked meanwhile (a data loader's
worker) holds the same end of it open. Both look at the process itself every second.
"""

from __future__ import annotations

import logging
import os
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import Signals
from typing import Any, Protocol

from cairn.errors import SaveError
from cairn.helper_process import HelperProcess
from cairn.store import commit, shard
from cairn.store.commit import CommitPlan, Committed
from cairn.store.shard import Report, ShardPlan
from cairn.writing.buffers import Buffer, BufferPool

log = logging.getLogger(__name__)

SILENCE_S = 60.0
"""Warn after this long without progress, but keep waiting: the disk may recover."""
POLL_S = 1.0
"""Interval at which the training process and its writer check that the other one is alive."""
_PATIENCE_S = 5.0  # for an idle writer to end


# Installed packages come after the standard library on the path, so that none of them shadows it.
_START = f"""
import sys
sys.path.append({sysconfig.get_path("platlib")!r})
from {__package__}.writer_process import main
main(sys.argv[1:])
"""


Plan = CommitPlan | ShardPlan
"""What a writer carries out."""


def carry_out(
    plan: Plan,
    view: memoryview,
    beat: Callable[[int], None],
    has_ended: Callable[[], bool],
    warn: Callable[[str], None] = log.warning,
) -> Committed | Report:
    """Commit a checkpoint, or write a shard of one.

    Args:
        plan: What to do.
        view: The whole file in memory.
        beat: Called repeatedly with the number of bytes written so far.
        has_ended: Whether the training has ended or failed.
        warn: Called with a sentence if the shard of another rank is late.

    Raises:
        SaveError: It could not be done.
    """
    if isinstance(plan, ShardPlan):
        return shard.write(plan, view, beat)
    return commit.write(plan, view, beat, has_ended, warn)


def _waits_for_others(plan: Plan) -> bool:
    return isinstance(plan, CommitPlan) and plan.shard is not None


class Writer(Protocol):
    """Commits one checkpoint at a time, or writes one shard of it."""

    progress_bytes: int
    """How much of the current checkpoint is written."""

    def write(self, plan: Plan, buffer: Buffer) -> Any:
        """Write and commit a checkpoint, or write a shard, and return once that is done.

        Args:
            plan: What to commit, link and delete; or which shard to write.
            buffer: The buffer that holds the file.

        Returns:
            What `carry_out` returns.

        Raises:
            SaveError: The file could not be written; nothing is left of it.
        """
        ...

    def training_has_ended(self) -> None:
        """Do not wait for the shards of other ranks for long any more: they may have died."""
        ...

    def close(self) -> None:
        """End the writer; called after the last `write`."""
        ...


class InlineWriter:
    """Writes in the calling thread."""

    def __init__(self) -> None:
        self.progress_bytes = 0
        self._has_ended = False

    def write(self, plan: Plan, buffer: Buffer) -> Any:
        return carry_out(plan, buffer.view[: buffer.num_bytes], self._beat, lambda: self._has_ended)

    def training_has_ended(self) -> None:
        self._has_ended = True

    def close(self) -> None:
        pass

    def _beat(self, num_bytes: int) -> None:
        self.progress_bytes = num_bytes


@dataclass(frozen=True)
class Ended:
    """The training has ended or failed; sent while a request is being worked on."""


@dataclass(frozen=True)
class Request:
    """What to write, in a form that the writer process understands."""

    plan: Plan
    buffer_index: int
    capacity: int
    """Size of the buffer, in bytes: the writer maps it again if it has changed."""
    num_bytes: int
    """Size of the file."""


class WriterProcess:
    """Writes in a separate process, and retries once with a new one if that dies.

    Args:
        pool: The buffers, whose memory the process shares.
    """

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._process: HelperProcess | None = None
        self._connection: Connection | None = None
        self._sends = threading.Lock()
        self._has_ended = False
        self.progress_bytes = 0

    @property
    def pid(self) -> int | None:
        """Process id of the writer; None if it does not run."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process if it does not run.

        Raises:
            OSError: This system does not allow it.
        """
        if self._process is not None:
            return
        if any(buffer.fd < 0 for buffer in self._pool.buffers):
            raise OSError("this system has no memfd_create")
        ours, theirs = Pipe()
        fds = [theirs.fileno(), *(buffer.fd for buffer in self._pool.buffers)]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        with theirs:  # closed here once the writer has it: the pipe then ends with this process
            # -S skips site-packages, which halves the time to start. -P keeps the current directory off the path, where
            # a file might shadow a module.
            arguments = ["-SP", "-c", _START, *map(str, [os.getpid(), *fds])]
            self._process = HelperProcess(arguments, fds, {**os.environ, "PYTHONPATH": path})
        self._connection = ours

    def write(self, plan: Plan, buffer: Buffer) -> Any:
        for again in (False, True):
            self.start()
            request = Request(
                replace(plan, retry=again), self._pool.buffers.index(buffer), buffer.capacity, buffer.num_bytes
            )
            try:
                return self._ask(request)
            except SaveError:
                raise
            except (EOFError, OSError) as error:
                why = self._how_it_ended()
                if again:
                    name = plan.directory / plan.name
                    raise SaveError(f"The checkpoint {name} could not be written: its writer {why}, twice.") from error
                log.error("The process that writes checkpoints %s. A new one retries the save.", why)
        raise AssertionError

    def close(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.send(None)  # closing it is not enough: a data loader's worker may hold it open
            self._connection.close()
        if self._process is not None:
            self._process.ends_within(_PATIENCE_S)
        self._process = self._connection = None

    def training_has_ended(self) -> None:
        with self._sends, suppress(OSError):  # it may have died, or not have begun
            if not self._has_ended and self._connection is not None:
                self._connection.send(Ended())
            self._has_ended = True

    def _ask(self, request: Request) -> Committed | Report:
        assert self._connection is not None
        self.progress_bytes = 0
        with self._sends:
            self._connection.send(request)
            if self._has_ended:
                self._connection.send(Ended())
        while True:
            while not self._has_answered():
                log.warning(
                    "%s does not respond: no progress on %s for %g s. Still waiting.",
                    "The disk, or the writer of another rank," if _waits_for_others(request.plan) else "The disk",
                    request.plan.name,
                    SILENCE_S,
                )
            answer = self._connection.recv()
            if isinstance(answer, Committed | Report):
                return answer
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, str):
                log.warning("%s", answer)
                continue
            self.progress_bytes = answer

    def _has_answered(self) -> bool:
        """Wait for a message of the writer; False after `SILENCE_S` without one.

        Raises:
            EOFError: The writer has died.
        """
        assert self._connection is not None
        assert self._process is not None
        until = time.monotonic() + SILENCE_S
        while not self._connection.poll(min(POLL_S, SILENCE_S)):
            if self._process.poll() is not None and not self._connection.poll():
                raise EOFError
            if time.monotonic() >= until:
                return False
        return True

    def _how_it_ended(self) -> str:
        assert self._process is not None
        assert self._connection is not None
        self._connection.close()
        self._process.kill()  # in case only the pipe is broken
        code, self._process, self._connection = self._process.wait(), None, None
        return f"was killed by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
