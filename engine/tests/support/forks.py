"""The real command line without its imports: a process that has done them once forks a child per command."""

from __future__ import annotations

import atexit
import faulthandler
import functools
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
from typing import Any, TextIO

from tests.support.paths import ENGINE, PYTHONPATH, ROOT

RANKS = "CAIRN_TEST_RANKS"
"""Number of processes started by Lightning or torchrun that are forked, too."""
OBSERVED_S = "CAIRN_TEST_OBSERVED_S"
"""How often Lightning's main process looks whether another one has ended, in seconds; otherwise each 5 s."""
TORCHRUN = ["-m", "torch.distributed.run"]
_PATIENT_S = 600


class Forks:
    """A context in which a training starts within half a second; what still runs at its end is killed.

    A separate process forks, since the test process has threads. For each command it forks a waiter, which forks the
    command in its own session and reports its process id and its exit code.
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
        self._lock = threading.Lock()  # an order is sent in two parts
        self._children: list[Fork] = []
        return self

    def __exit__(self, *error: object) -> None:
        for child in self._children:
            child.kill()
        self._socket.close()
        self._server.kill()
        self._server.wait()

    def start(self, argv: Sequence[str], env: Mapping[str, str], output: int, cwd: Path = ROOT) -> Fork:
        """Start `python *argv` in a directory; its output goes to the file `output`."""
        says, tells = os.pipe()
        order = json.dumps([list(argv), dict(env), str(cwd)]).encode()
        try:
            with self._lock:
                socket.send_fds(self._socket, [len(order).to_bytes(8, "little")], [output, tells])
                self._socket.sendall(order)
        finally:
            os.close(tells)
        child = Fork(says)
        with self._lock:
            self._children = [other for other in self._children if other.returncode is None] + [child]
        return child


class Fork:
    """A command that runs or has ended."""

    def __init__(self, says: int) -> None:
        self._says = says
        self.returncode: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        if self.returncode is None and select.select([self._says], [], [], 0)[0]:
            self._end(self._read())
        return self.returncode

    def wait(self, timeout: float = _PATIENT_S) -> int:
        """Wait, and return the exit code, which is -9 only if a kill came before the end.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.returncode is None:
            self._end(self._read(timeout))
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal the command; does nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> int:
        """Kill (-9) the command and what it has started, and return the exit code."""
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
            assert byte, "the process that forks has ended: its output is above"
            digits += byte
        return int(digits)

    def _end(self, code: int) -> None:
        self.returncode = code
        os.close(self._says)


def serve(orders: socket.socket) -> None:
    """Import what a command may import; then fork for each order, and become that command in the child."""
    from hydra import compose, initialize_config_dir

    from cairn.hydra.run import imports
    from cairn.hydra.sweep import plugins

    with imports.quick():
        import wandb.sdk.launch  # noqa: F401 - a run imports this part of W&B at its start, which takes a second

        import cairn.cli.main
        import cairn.hydra.run.session  # noqa: F401

    plugins.register()  # Hydra looks for plugins once
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train")  # finds Hydra's plugins and warms up its parser
    gc.freeze()  # otherwise the first garbage collection of each child would copy all of it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # this process does not wait for the waiters
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
    """Become the waiter of a command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # not in a process group that a test kills
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.write(tells, b"%d\n" % os.getpid())  # from now on its process group can be killed
        os.close(tells)
        return _become(*command, output)
    os.close(output)
    os.write(tells, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _become(argv: list[str], env: dict[str, str], cwd: str, output: int) -> None:
    """Become the process `python *argv`."""
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
    Ranks(int(env.get(RANKS, 0))).take_over(argv)
    _run(argv)


def _run(argv: list[str]) -> None:
    """Run `python *argv`, and end this process without deleting its modules.

    Deleting them takes a third of a second, since a fork has to copy each page that it changes. Any exception but
    SystemExit leaves this function: its traceback and its exit code are those of the interpreter.
    """
    code: Any = None
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = argv
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
    if isinstance(code, str):
        sys.exit(code)  # it prints the text
    threading._shutdown()  # type: ignore[attr-defined] - waits for the other threads
    atexit._run_exitfuncs()
    code = int(code or 0) & 0xFF
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = 120  # as the interpreter does
    os._exit(code)


class Ranks:
    """Copies of this process, its children, that wait to become other processes of a run.

    Args:
        number: Number of copies. Further processes are new interpreters; an unused copy ends with this process.
    """

    def __init__(self, number: int) -> None:
        self._waiting = [_copy_that_waits() for _ in range(number)]

    def take_over(self, argv: Sequence[str]) -> None:
        """Replace the `Popen` of Lightning, or of torchrun if that is the command, by ours."""
        if not self._waiting:
            return
        if list(argv[:2]) == TORCHRUN:
            from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

            subprocess_handler.Popen = self._start_for_torchrun  # type: ignore[assignment, misc]
            return
        from lightning.fabric.strategies.launchers import subprocess_script as observing
        from lightning.pytorch.strategies.launchers import subprocess_script

        if OBSERVED_S in os.environ:
            period_s = float(os.environ[OBSERVED_S])
            observer: Any = functools.partial(observing._ChildProcessObserver, sleep_period=period_s)
            observing._ChildProcessObserver = observer  # type: ignore[misc]
        subprocess_script.subprocess = SimpleNamespace(Popen=self._start)  # type: ignore[attr-defined]

    def _start(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str | None, in_session: bool = False
    ) -> Rank | subprocess.Popen[bytes]:
        if not self._waiting:
            return subprocess.Popen(command, env=env, cwd=cwd, start_new_session=in_session)
        pid, orders = self._waiting.pop(0)
        with orders:
            orders.write(json.dumps([list(command[1:]), dict(env), cwd or os.getcwd(), in_session]) + "\n")
        return Rank(pid)

    def _start_for_torchrun(
        self, args: Sequence[str], env: Mapping[str, str], start_new_session: bool, **_: Any
    ) -> Rank | subprocess.Popen[bytes]:
        return self._start([word for word in args if word != "-u"], env, None, start_new_session)


def _copy_that_waits() -> tuple[int, TextIO]:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid != 0:
        os.close(reads)
        return pid, open(writes, "w")
    os.close(writes)
    with open(reads) as orders:
        order = orders.readline()  # one line only: a later copy holds the other end of this pipe open
    if order:  # otherwise the process that might have needed this copy has ended
        argv, env, cwd, in_session = json.loads(order)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        if in_session:
            os.setsid()  # torchrun signals the process group
        _run(argv)
    sys.exit()


class Rank:
    """The part of a `Popen` that Lightning and torchrun use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._asked = threading.Lock()  # a thread of Lightning polls it, too

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        with self._asked:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it; does nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float = _PATIENT_S) -> int:
        """Wait for its end, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        limit = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() >= limit:
                raise subprocess.TimeoutExpired("a forked rank", timeout)
            time.sleep(0.005)
        return code


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
