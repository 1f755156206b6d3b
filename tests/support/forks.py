"""The real command line without its imports: a process that has done them once forks a child for each command."""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from tests.support.command import ROOT

GENEROUS_S = 1800
"""Long enough for a machine that was suspended for some minutes in between; only so that no test hangs for ever."""


class Forks:
    """A context in which a training starts within half a second; what still runs at its end is killed.

    A process of its own forks, because the one that tests has threads. It runs one child at a time, and says first
    the child's process id and then its exit code.
    """

    def __enter__(self) -> Forks:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forks"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that select() knows of all that there is to read
            start_new_session=True,
        )
        self._child: Fork | None = None
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._end_child()
        finally:
            self._server.kill()
            self._server.communicate()

    def start(self, run: Path, *overrides: str) -> Fork:
        """Start a training, and kill the one before if there still is one; its output is added to `RUN.log`.

        It goes to `run`, unless the overrides say where a run goes.
        """
        self._end_child()
        elsewhere = any(override.startswith(("hydra.run.dir=", "paths.log_dir=", "resume=")) for override in overrides)
        argv = [str(ROOT / "train.py"), *overrides, *([] if elsewhere else [f"hydra.run.dir='{run}'"])]
        self._server.stdin.write(json.dumps([f"{run}.log", argv]).encode() + b"\n")
        self._child = Fork(self._server.stdout)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()


class Fork:
    """A training in a session of its own."""

    def __init__(self, says: IO[bytes]) -> None:
        self._says = says
        self._code: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.wait() if select.select([self._says], [], [], 0)[0] else self._code

    def wait(self) -> int:
        """The exit code, which is -9 only if a kill came before the end."""
        if self._code is None:
            self._code = self._read()
        return self._code

    def kill(self) -> int:
        """kill -9 of the training and of what it has started; returns the exit code."""
        if self._code is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return self.wait()

    def _read(self) -> int:
        assert select.select([self._says], [], [], GENEROUS_S)[0], "waited too long"
        return int(self._says.readline())


def serve() -> None:
    """Import what a training imports; then fork for each line that comes, and in the child become that command."""
    import sklearn.datasets  # noqa: F401
    from hydra import compose, initialize_config_dir

    import cairn.run  # noqa: F401

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train")  # finds Hydra's plugins, and warms up its parser
    gc.freeze()  # or each child's first collection would copy all of that
    for line in sys.stdin:
        assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in the child"
        pid = os.fork()
        if pid == 0:
            return become(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(log: str, argv: list[str]) -> None:
    """Be the process that `python *argv` is."""
    os.setsid()
    print(os.getpid(), flush=True)  # from now on there is a group to kill
    with open(os.devnull) as nothing, open(log, "ab") as file:
        for number, other in enumerate((nothing, file, file)):
            os.dup2(other.fileno(), number)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    serve()
