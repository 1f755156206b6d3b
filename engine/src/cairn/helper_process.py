"""A Python process next to the training, which may be started by any thread.

`subprocess.Popen` waits on a pipe until the new process has begun. A data worker that another thread forks at that
moment has a copy of this pipe, and keeps it open until it ends itself: Popen would wait just as long.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

_POLL_S = 0.01


class HelperProcess:
    """Starts a process in a session of its own: Ctrl-C and kills of our process group do not reach it.

    Args:
        arguments: Arguments of the Python interpreter.
        fds: Descriptors that the process inherits under the same numbers, and no others.
        environment: Its environment.

    Raises:
        OSError: This system does not allow it.
    """

    def __init__(self, arguments: Sequence[str], fds: Sequence[int], environment: Mapping[str, str]) -> None:
        # A descriptor that is duplicated onto itself is inherited.
        given = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds]
        others = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in fds]
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *arguments],
                environment,
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *others, *given],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores, and its children would, too
            )
        except NotImplementedError as error:
            raise OSError(f"this system cannot start a process in a session of its own ({error})") from error
        self._code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return its exit code, the negative number of the signal that has ended it, or None while it runs."""
        with self._lock:
            if self._code is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # the program ignores SIGCHLD: how it ended is not known
                    pid, status = self.pid, 0
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
            return self._code

    def wait(self) -> int:
        """Wait for its end; return as `poll` does."""
        while (code := self.poll()) is None:
            time.sleep(_POLL_S)
        return code

    def ends_within(self, limit_s: float) -> bool:
        """Wait for its end; return whether it has come.

        Args:
            limit_s: Maximum time, in seconds.
        """
        until = time.monotonic() + limit_s
        while self.poll() is None and time.monotonic() < until:
            time.sleep(_POLL_S)
        return self.poll() is not None

    def kill(self) -> None:
        """Kill it if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _inheritable() -> list[int]:
    """Descriptors of this process that its children get, besides the standard ones: C code may have opened them."""
    found = []
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # that of this listing, or another thread has just closed it
                if int(name) > 2 and os.get_inheritable(int(name)):
                    found.append(int(name))
    return found
