"""WHO writes a checkpoint: this process, or one beside it that does nothing else.

A thread of the training process would do as well, were it not for Python: while it hashes and writes, it takes turns
with training, which loses several times what the snapshot costs. A process of its own takes another core.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import Signals
from typing import Protocol

from cairn.errors import SaveError
from cairn.store import commit
from cairn.store.commit import CommitPlan, Committed
from cairn.writing.buffers import Buffer, BufferPool

log = logging.getLogger(__name__)

SILENCE_S = 60.0
"""A writer that has not moved for so long is told of. It is waited for: a disk may come back."""
POLL_S = 1.0
"""How often the training and its writer look whether the other is still there."""
_PATIENCE_S = 5.0  # for a writer without work to end


# What is installed comes behind the standard library: nothing there takes its place.
_START = f"""
import sys
sys.path.append({sysconfig.get_path("platlib")!r})
from {__package__}.writer_process import main
main(sys.argv[1:])
"""


class Writer(Protocol):
    """Commits one checkpoint at a time."""

    progress_bytes: int
    """How much of the present one is written."""

    def write(self, plan: CommitPlan, buffer: Buffer) -> Committed:
        """Do the plan, and return when it is done.

        Raises:
            SaveError: the checkpoint could not be written, and nothing is left of it.
        """
        ...

    def close(self) -> None:
        """Not needed any more."""
        ...


class InlineWriter:
    """Writes in the thread that asks."""

    def __init__(self) -> None:
        self.progress_bytes = 0

    def write(self, plan: CommitPlan, buffer: Buffer) -> Committed:
        return commit.write(plan, buffer.view[: buffer.num_bytes], self._beat)

    def close(self) -> None:
        pass

    def _beat(self, num_bytes: int) -> None:
        self.progress_bytes = num_bytes


@dataclass(frozen=True)
class Request:
    """What the process is asked."""

    plan: CommitPlan
    buffer_index: int
    """The number of the buffer with the file."""
    capacity: int
    num_bytes: int


class WriterProcess:
    """Writes in a process beside this one. If that dies, another one does its work again.

    Args:
        pool: the buffers that it shares.
    """

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self.progress_bytes = 0

    @property
    def pid(self) -> int | None:
        """Of the process; None if there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: it is not allowed.
        """
        if self._process is not None:
            return
        if any(buffer.fd < 0 for buffer in self._pool.buffers):
            raise OSError("this system has no memfd_create")
        ours, theirs = Pipe()
        fds = [theirs.fileno(), *(buffer.fd for buffer in self._pool.buffers)]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        with theirs:  # theirs alone once they have it: its end is what they notice when this process dies
            # -S: it needs little but the standard library, and starts in half the time; -P: no file that happens to lie
            # where we stand takes its place. No kill for our group reaches it.
            command = [sys.executable, "-SP", "-c", _START, *map(str, [os.getpid(), *fds])]
            environment = {**os.environ, "PYTHONPATH": path}
            self._process = subprocess.Popen(
                command, pass_fds=fds, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
            )
        self._connection = ours

    def write(self, plan: CommitPlan, buffer: Buffer) -> Committed:
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
                    name = plan.directory / plan.draft.name
                    raise SaveError(f"The checkpoint {name} could not be written: its writer {why}, twice.") from error
                log.error("The process that writes checkpoints %s: another one does its work again.", why)
        raise AssertionError

    def close(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.send(None)  # to close it would not do: workers of a data loader may hold it, too
            self._connection.close()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
        self._process = self._connection = None

    def _ask(self, request: Request) -> Committed:
        assert self._connection is not None
        self.progress_bytes = 0
        self._connection.send(request)
        while True:
            while not self._has_answered():
                log.warning(
                    "The disk does not answer: nothing of %s was written for %g s.", request.plan.draft.name, SILENCE_S
                )
            answer = self._connection.recv()
            if isinstance(answer, Committed):
                return answer
            if isinstance(answer, Exception):
                raise answer
            self.progress_bytes = answer

    def _has_answered(self) -> bool:
        """Wait for an answer; False after some silence.

        Raises:
            EOFError: it has died. Its end of the pipe need not tell: a worker that was forked just then has it as well.
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
        self._process.kill()  # should it still live, and only the pipe be broken
        code, self._process, self._connection = self._process.wait(), None, None
        return f"was killed by {Signals(-code).name}" if code < 0 else f"has ended with exit code {code}"
