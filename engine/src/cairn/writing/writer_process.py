"""The process that writes checkpoints: it handles one request after the other until the training process ends.

`writer.WriterProcess` starts it and passes its own process id and the descriptors that this process inherits: its end
of a pipe, then the buffers. The protocol is drawn in writer.py. No torch is imported here.

The process has no state: if it is killed, the next one repeats the request from the same buffer.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from cairn.errors import SaveError
from cairn.store import disk
from cairn.store.commit import Committed
from cairn.store.shard import Report, ShardPlan
from cairn.writing.buffers import map_pages
from cairn.writing.writer import POLL_S, Ended, Request, carry_out

_BEAT_S = 0.2


def main(arguments: list[str]) -> None:
    """Serve requests until the training process ends.

    Args:
        arguments: Process id of the training, descriptor of the pipe, descriptors of the buffers.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the training, whose last checkpoint is still to be written
    parent, connection, *fds = map(int, arguments)
    with Connection(connection) as pipe:
        server = _Server(parent, pipe, fds)
        while (request := _next(parent, pipe)) is not None:
            answer = server.answer(request)
            if _is_gone(parent):
                return
            try:
                pipe.send(answer)
            except OSError:
                return


def _next(parent: int, pipe: Connection) -> Any:
    """Next request; None once the training process has ended."""
    try:
        while not pipe.poll(POLL_S):
            if _is_gone(parent):
                return None
        request = pipe.recv()
        return _next(parent, pipe) if isinstance(request, Ended) else request
    except (EOFError, OSError):
        return None


def _is_gone(parent: int) -> bool:
    """True if the training process has died: this process then has another parent."""
    return os.getppid() != parent


class _Server:
    def __init__(self, parent: int, pipe: Connection, fds: list[int]) -> None:
        self._parent, self._pipe, self._fds = parent, pipe, fds
        self._maps: dict[int, mmap.mmap] = {}
        self._last_s = 0.0
        self._ended = False

    def answer(self, request: Request) -> Committed | Report | Exception:
        """Write and commit a checkpoint, or write a shard; an error is an answer too."""
        plan = request.plan
        is_sharded = isinstance(plan, ShardPlan) or plan.shard is not None
        try:
            with disk.locked(plan.directory, shared=is_sharded), memoryview(self._map(request)) as view:
                # Checked under the lock, before anything is written: a resumed run may already be at work.
                if _is_gone(self._parent):
                    raise SaveError("The training process has died.")
                return carry_out(plan, view[: request.num_bytes], self._beat, self._has_ended, self._warn)
        except SaveError as error:
            return error
        except Exception as error:
            return SaveError(f"The checkpoint {plan.name} could not be written: {error!r}.")

    def _has_ended(self) -> bool:
        """Whether the training has ended, or says that it has: other ranks may have died as well."""
        with suppress(OSError, EOFError):
            if not self._ended and self._pipe.poll():
                self._pipe.recv()  # `Ended`: nothing else comes while a request is worked on
                self._ended = True
        return self._ended or _is_gone(self._parent)

    def _map(self, request: Request) -> mmap.mmap:
        known = self._maps.get(request.buffer_index)
        if known is None or len(known) != request.capacity:
            known = self._maps[request.buffer_index] = map_pages(self._fds[request.buffer_index], request.capacity)
        return known

    def _beat(self, num_bytes: int) -> None:
        now = time.monotonic()
        if now - self._last_s >= _BEAT_S:
            self._last_s = now
            if _is_gone(self._parent):
                return  # the save is finished anyway: nothing could repeat it, and nothing reads progress
            with suppress(OSError):
                self._pipe.send(num_bytes)

    def _warn(self, message: str) -> None:
        with suppress(OSError):  # the training has ended
            self._pipe.send(message)
