"""A server in a process of its own, on loopback, that does not outlive the tests."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENT_S = 120
"""A machine may be suspended or busy for some time; a wait that is longer fails."""
PORTS = range(20_000, 30_000)
"""Below the range of ports that the kernel assigns, so that ours stay free between the check and the start."""
_WATCHED = '"$@" >>"$LOG" 2>&1 </dev/null & echo $!; read _; kill -9 $!'
"""A shell that ends the server once its own input ends: when the tests are killed, too."""


class Daemon:
    """A context with a server that can be killed and started again.

    Args:
        command: The program and its arguments.
        log: The file that its output is added to.
        env: Variables in addition to PATH and HOME.
    """

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._command, self._log = [str(word) for word in command], log
        self._env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
            **(env or {}),
            "LOG": str(log),
        }
        self._shell: subprocess.Popen[str] | None = None
        self.pid = 0

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server; see `until` for waiting until it answers."""
        assert self._shell is None, "it runs"
        self._shell = subprocess.Popen(
            ["sh", "-c", _WATCHED, "sh", *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._env,
            cwd=self._log.parent,
            start_new_session=True,
        )
        assert self._shell.stdout is not None
        self.pid = int(self._shell.stdout.readline())

    def kill(self) -> None:
        """Kill the server (-9), and return once it is gone. Does nothing if it does not run."""
        if self._shell is not None:
            self._shell.communicate("\n")
            self._shell = None
            self.until(lambda: not Path(f"/proc/{self.pid}").exists(), "the end of the server", runs=False)

    def stop(self, stopped: bool = True) -> None:
        """Stop the server without closing its connections, as a machine that hangs; or let it continue."""
        os.kill(self.pid, signal.SIGSTOP if stopped else signal.SIGCONT)

    def until(self, condition: Callable[[], object], what: str, runs: bool = True) -> None:
        """Wait for a condition.

        Args:
            condition: Asked again and again; an `OSError` in it counts as no.
            what: What is waited for, in the words of a message.
            runs: Fail at once if the server does not run.

        Raises:
            AssertionError: It takes too long, or the server has ended.
        """
        limit = time.monotonic() + PATIENT_S
        while not _is_true(condition):
            assert not runs or Path(f"/proc/{self.pid}").exists(), f"{self._command[0]} has ended: {self._end_of_log()}"
            assert time.monotonic() < limit, f"waited too long for {what}: {self._end_of_log()}"
            time.sleep(0.05)

    def _end_of_log(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-15:] if self._log.exists() else []
        return "\n  ".join([f"the end of {self._log.name}:", *lines])


def free_ports(number: int) -> list[int]:
    """Return ports of 127.0.0.1 that are free now."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise AssertionError(f"fewer than {number} ports are free")


def listens(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections to this port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_true(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except OSError:
        return False
