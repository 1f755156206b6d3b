"""The real command line without its imports: a process that has done them once forks a child for each command."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from tests.support.paths import ENGINE, PYTHONPATH, ROOT

RANKS = "CAIRN_TEST_RANKS"
"""How many of the processes that Lightning starts shall be forked as well."""
_PATIENT_S = 600


class Forks:
    """A context in which a training starts within half a second; what still runs at its end is killed.

    A process of its own forks, because the one that tests has threads. For each command it forks a process that waits
    for the command's own, which is in a session of its own, and tells that one's process id and its exit code.
    """

    def __enter__(self) -> Forks:
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())],
                cwd=ENGINE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        self._children: list[Fork] = []
        return self

    def __exit__(self, *error: object) -> None:
        for child in self._children:
            child.kill()
        self._socket.close()
        self._server.kill()
        self._server.wait()

    def start(self, argv: Sequence[str], env: Mapping[str, str], output: int, cwd: Path = ROOT) -> Fork:
        """Start `python *argv` in a directory; what it says goes to the file `output`."""
        says, tells = os.pipe()
        order = json.dumps([list(argv), dict(env), str(cwd)]).encode()
        try:
            socket.send_fds(self._socket, [len(order).to_bytes(8, "little")], [output, tells])
            self._socket.sendall(order)
        finally:
            os.close(tells)
        child = Fork(says)
        self._children = [other for other in self._children if other.poll() is None] + [child]
        return child


class Fork:
    """A command that runs, or has run."""

    def __init__(self, says: int) -> None:
        self._says = says
        self.returncode: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None and select.select([self._says], [], [], 0)[0]:
            self._end(self._read())
        return self.returncode

    def wait(self, timeout: float = _PATIENT_S) -> int:
        """The exit code, which is -9 only if a kill came before the end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            self._end(self._read(timeout))
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process that was started; nothing happens if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> int:
        """kill -9 of the command and of what it has started; returns the exit code."""
        if self.poll() is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return self.wait()

    def _read(self, timeout: float = _PATIENT_S) -> int:
        if not select.select([self._says], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a forked command", timeout)
        digits = b""
        while (byte := os.read(self._says, 1)) != b"\n":
            assert byte, "the process that forks has ended: what it said is above"
            digits += byte
        return int(digits)

    def _end(self, code: int) -> None:
        self.returncode = code
        os.close(self._says)


def serve(orders: socket.socket) -> None:
    """Import what a command may import; then fork for each order that comes, and in the child become that command."""
    from hydra import compose, initialize_config_dir

    from cairn.hydra import imports, plugins

    with imports.quick():
        pass

    plugins.register()  # Hydra looks for plugins once
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train")  # finds Hydra's plugins, and warms up its parser
    gc.freeze()  # or each child's first collection would copy all of that
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while (order := _next(orders)) is not None:
        assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in the child"
        command, output, tells = order
        if os.fork() == 0:
            orders.close()
            return _wait_for(command, output, tells)
        os.close(output)
        os.close(tells)


Command = tuple[list[str], dict[str, str], str]
"""Arguments, environment, directory."""


def _next(orders: socket.socket) -> tuple[Command, int, int] | None:
    head, files, _, _ = socket.recv_fds(orders, 8, 2)
    if not head:
        return None
    missing, parts = int.from_bytes(head, "little"), []
    while missing:
        parts.append(orders.recv(missing))
        missing -= len(parts[-1])
    return json.loads(b"".join(parts)), files[0], files[1]


def _wait_for(command: Command, output: int, tells: int) -> None:
    """Be who waits for the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # not a part of any group that somebody kills
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.write(tells, b"%d\n" % os.getpid())  # from now on there is a group to kill
        os.close(tells)
        return _become(*command, output)
    os.close(output)
    os.write(tells, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _become(argv: list[str], env: dict[str, str], cwd: str, output: int) -> None:
    """Be the process that `python *argv` is."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(cwd)
    faulthandler.enable()
    Ranks(int(env.get(RANKS, 0))).take_over()
    _run(argv)


def _run(argv: list[str]) -> None:
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


class Ranks:
    """Copies of this process, its children, that wait to become the other processes of a run that Lightning starts.

    Args:
        number: how many; those that Lightning starts after that many are new interpreters. One that is not needed ends
            with this process.
    """

    def __init__(self, number: int) -> None:
        self._waiting = [_copy_that_waits() for _ in range(number)]

    def take_over(self) -> None:
        """From now on Lightning's `Popen` is ours."""
        if self._waiting:
            from lightning.pytorch.strategies.launchers import subprocess_script

            subprocess_script.subprocess = SimpleNamespace(Popen=self._start)  # type: ignore[attr-defined]

    def _start(self, command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> Rank | subprocess.Popen[bytes]:
        if not self._waiting:
            return subprocess.Popen(command, env=env, cwd=cwd)
        pid, orders = self._waiting.pop(0)
        with orders:
            orders.write(json.dumps([list(command[1:]), dict(env), cwd or os.getcwd()]) + "\n")
        return Rank(pid)


def _copy_that_waits() -> tuple[int, TextIO]:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid != 0:
        os.close(reads)
        return pid, open(writes, "w")
    os.close(writes)
    with open(reads) as orders:
        order = orders.readline()  # not until its end: a later copy has the other end of this pipe open too
    if order:  # else who might have needed this one has ended
        argv, env, cwd = json.loads(order)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        _run(argv)
    sys.exit()


class Rank:
    """What Lightning wants of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._asked = threading.Lock()  # a thread of Lightning's looks after it, too

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with self._asked:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
