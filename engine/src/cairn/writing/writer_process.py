"""The process that writes checkpoints: it does one job after the other until the training process is gone.

Started by `writer.WriterProcess`, which calls `main` with its own process id and the numbers of the files that this one
inherits: its end of a pipe, then the buffers.
It holds no state: whatever it is killed in the middle of, the next one does again from the same buffer.
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
from cairn.store import commit, disk
from cairn.store.commit import Committed
from cairn.writing.buffers import map_pages
from cairn.writing.writer import POLL_S, Request

_BEAT_S = 0.2


def main(arguments: list[str]) -> None:
    """Serve until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the training, which will want its last checkpoint written
    parent, connection, *fds = map(int, arguments)
    with Connection(connection) as asked:
        server = _Server(parent, asked, fds)
        while (request := _next(parent, asked)) is not None:
            answer = server.answer(request)
            if _is_gone(parent):
                return
            try:
                asked.send(answer)
            except OSError:
                return


def _next(parent: int, asked: Connection) -> Any:
    """The next request; None when the one who asks is gone."""
    try:
        while not asked.poll(POLL_S):
            if _is_gone(parent):
                return None
        return asked.recv()
    except (EOFError, OSError):
        return None


def _is_gone(parent: int) -> bool:
    """Has it died? Its end of the pipe need not tell: a worker that it has forked has it as well."""
    return os.getppid() != parent


class _Server:
    def __init__(self, parent: int, asked: Connection, fds: list[int]) -> None:
        self._parent, self._asked, self._fds = parent, asked, fds
        self._maps: dict[int, mmap.mmap] = {}
        self._last_s = 0.0

    def answer(self, request: Request) -> Committed | Exception:
        """Do a job; what goes wrong is an answer as well."""
        try:
            with disk.locked(request.plan.directory), memoryview(self._map(request)) as view:
                if _is_gone(self._parent):  # before it was begun: whoever goes on with the run may be here already
                    raise SaveError("The training process is gone.")
                return commit.write(request.plan, view[: request.num_bytes], self._beat)
        except SaveError as error:
            return error
        except Exception as error:
            return SaveError(f"The checkpoint {request.plan.draft.name} could not be written: {error!r}.")

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
                return  # it is finished all the same: nobody is left who could do it again, or would read this
            with suppress(OSError):
                self._asked.send(num_bytes)
