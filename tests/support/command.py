"""The real command line: `python train.py ...`, waited for, killed, or asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cairn.checkpoint.catalog import Catalog

ROOT = Path(__file__).resolve().parents[2]

QUICK = ["logger=csv", "callbacks=none", "trainer=cpu", "trainer.enable_progress_bar=false"]
"""What keeps a run short without touching its numbers."""
RECORD = "+callbacks.record._target_=tests.support.callbacks.RecordBatches"
"""Write down the data of each batch, see `recorded`."""


def start(run: Path | None, *overrides: str, **env: str) -> subprocess.Popen[str]:
    """Start a training in a process group of its own; its output is captured."""
    where = [] if run is None else [f"hydra.run.dir='{run}'"]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides, *where],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(run: Path | None, *overrides: str, expect: int = 0, **env: str) -> str:
    """Train to the end; returns the output, and fails if the exit code is another than expected."""
    process = start(run, *overrides, **env)
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        kill(process)
    assert process.returncode == expect, output[-4000:]
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of the whole process group; nothing happens if it has ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> bool:
    """Wait until something is so; False if the process has ended before."""
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.005)
    return True


def newest(run: Path) -> str:
    """The name of the newest committed checkpoint; empty if there is none."""
    saved = Catalog(run / "checkpoints").committed()
    return saved[-1].name if saved else ""


def num_checkpoints(run: Path) -> int:
    """How many manifests there are."""
    return len(list((run / "checkpoints").glob("*.json")))
