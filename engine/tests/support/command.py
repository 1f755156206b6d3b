"""The real command line: `python train.py ...`, waited for, killed, or asked to stop."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.support.forks import Fork, Forks
from tests.support.paths import PYTHONPATH, ROOT

from cairn.store.catalog import Catalog

QUICK = ["logger=csv", "callbacks=none", "trainer=cpu", "trainer.enable_progress_bar=false"]
"""What keeps a run short without touching its numbers."""
RECORD = "+callbacks.record._target_=tests.support.callbacks.RecordBatches"
"""Record the data of each batch, see `recorded`."""


PATIENT_S = 600
"""A machine may be suspended for some minutes; a command that takes longer fails with its stack traces."""


class Process:
    """A command in its own session. Its output goes to a file: a child that holds a pipe open could delay the end."""

    def __init__(self, command: list[str], fresh: bool, cwd: Path = ROOT, **env: str) -> None:
        self._said, path = tempfile.mkstemp()
        os.unlink(path)
        weakref.finalize(self, os.close, self._said)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH, "PYTHONFAULTHANDLER": "1", **env}
        self._process: Fork | subprocess.Popen[bytes]
        if fresh or sys.platform != "linux":
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        else:
            self._process = _forks().start(command, env, self._said, cwd)
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        """Output so far."""
        return os.pread(self._said, os.fstat(self._said).st_size, 0).decode(errors="replace")

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float = PATIENT_S) -> int:
        """Wait, and return the exit code; if it takes too long, kill it and fail with its stack traces."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal_all(signal.SIGABRT)  # each Python process prints its stack traces
            time.sleep(2)
            raise AssertionError(f"It still ran after {seconds:.0f} s:\n{self.output[-20_000:]}") from None
        finally:
            if self._process.poll() is None:
                self.kill()

    def end(self, expect: int = 0, seconds: float = PATIENT_S) -> str:
        """Wait for its end and return its output; fails if the exit code is not the expected one."""
        code = self.wait(seconds)
        self._signal_all(signal.SIGKILL)
        assert code == expect, f"exit code {code} and not {expect}:\n{self.output[-4000:]}"
        return self.output

    def send_signal(self, number: int) -> None:
        """Signal the command."""
        self._process.send_signal(number)

    def kill(self) -> int:
        """Kill (-9) the command and what it has started, and return the exit code."""
        if self._process.poll() is None:
            self._signal_all(signal.SIGKILL)
        return self._process.wait(PATIENT_S)

    def _signal_all(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass


def start(
    run: Path | None,
    *overrides: str,
    fresh: bool = False,
    script: Path = ROOT / "train.py",
    cwd: Path = ROOT,
    **env: str,
) -> Process:
    """Start a training.

    Args:
        run: Its directory; None if the overrides set it.
        overrides: Hydra overrides.
        fresh: Start a new interpreter instead of a fork of one that has done the imports.
        script: The train.py; that of another clone needs a new interpreter.
        cwd: Directory in which it is called.
        env: Additional environment variables.
    """
    where = [] if run is None else [f"hydra.run.dir='{run}'"]
    return Process([str(script), *overrides, *where], fresh, cwd, **env)


def train(run: Path | None, *overrides: str, expect: int = 0, fresh: bool = False, **env: str) -> str:
    """Train to the end and return the output; fails if the exit code is not the expected one."""
    return start(run, *overrides, fresh=fresh, **env).end(expect)


def wait_for(condition: Callable[[], bool], process: Process, seconds: float = PATIENT_S) -> bool:
    """Wait until a condition is true; return False if the process has ended before."""
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < limit, f"waited too long:\n{process.output[-4000:]}"
        time.sleep(0.005)
    return True


def newest(run: Path) -> str:
    """Return the name of the newest committed checkpoint; empty if there is none."""
    saved = Catalog(run / "checkpoints").committed()
    return saved[-1].name if saved else ""


def num_checkpoints(run: Path) -> int:
    """Return the number of manifests."""
    return len(list((run / "checkpoints").glob("*.json")))


_STARTING = threading.Lock()


def _forks() -> Forks:
    with _STARTING:  # scenarios run in threads
        return _the_forks()


@cache
def _the_forks() -> Forks:
    forks = Forks().__enter__()
    atexit.register(forks.__exit__)
    return forks
