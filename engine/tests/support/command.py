"""The real command line: `python train.py ...`, waited for, killed, or asked to stop."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
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
"""Write down the data of each batch, see `recorded`."""


PATIENT_S = 600
"""A machine may be suspended for some minutes; what still hangs after so long tells where."""


class Process:
    """A command in a session of its own; what it says goes to a file, which nobody who still holds it can delay."""

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
        """What it has said so far."""
        return os.pread(self._said, os.fstat(self._said).st_size, 0).decode(errors="replace")

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float = PATIENT_S) -> int:
        """The exit code; if it takes too long, where it stands is told and it is killed."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal_all(signal.SIGABRT)  # each Python process says where its threads are
            time.sleep(2)
            raise AssertionError(f"It still ran after {seconds:.0f} s:\n{self.output[-20_000:]}") from None
        finally:
            if self._process.poll() is None:
                self.kill()

    def end(self, expect: int = 0, seconds: float = PATIENT_S) -> str:
        """Wait for its end; returns the output, and fails if the exit code is another than expected."""
        code = self.wait(seconds)
        self._signal_all(signal.SIGKILL)
        assert code == expect, f"exit code {code} and not {expect}:\n{self.output[-4000:]}"
        return self.output

    def send_signal(self, number: int) -> None:
        """To the process that was started."""
        self._process.send_signal(number)

    def kill(self) -> int:
        """kill -9 of the command and of what it has started; returns the exit code."""
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
        run: its directory; None if the overrides say where it goes.
        fresh: start a new interpreter; if not, a copy of one that has done the imports becomes the command.
        script: which train.py; that of another clone needs a new interpreter.
        cwd: where it is called.
    """
    where = [] if run is None else [f"hydra.run.dir='{run}'"]
    return Process([str(script), *overrides, *where], fresh, cwd, **env)


def train(run: Path | None, *overrides: str, expect: int = 0, fresh: bool = False, **env: str) -> str:
    """Train to the end; returns the output, and fails if the exit code is another than expected."""
    return start(run, *overrides, fresh=fresh, **env).end(expect)


def wait_for(condition: Callable[[], bool], process: Process, seconds: float = PATIENT_S) -> bool:
    """Wait until something is so; False if the process has ended before."""
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < limit, f"waited too long:\n{process.output[-4000:]}"
        time.sleep(0.005)
    return True


def newest(run: Path) -> str:
    """The name of the newest committed checkpoint; empty if there is none."""
    saved = Catalog(run / "checkpoints").committed()
    return saved[-1].name if saved else ""


def num_checkpoints(run: Path) -> int:
    """How many manifests there are."""
    return len(list((run / "checkpoints").glob("*.json")))


@cache
def _forks() -> Forks:
    forks = Forks().__enter__()
    atexit.register(forks.__exit__)
    return forks
