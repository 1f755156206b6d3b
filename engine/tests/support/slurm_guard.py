"""Ends a cluster with everything that it has started, even if the process that owns it was killed.

A program of its own that needs only the interpreter. It waits until its standard input says something or ends; it also
ends when the process at the other end is killed. Then it kills every process with the cluster's configuration in its
environment (daemons, jobs, and what jobs left behind), and removes the cluster's directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PATIENT_S = 60
"""A killed process that is still there after this many seconds is stuck in the kernel."""


def members(conf: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the processes that were started with this SLURM_CONF, with their environments."""
    wanted = os.fsencode(f"SLURM_CONF={conf}")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            lines = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or belongs to another user
        if wanted in lines:
            yield int(entry.name), dict(os.fsdecode(line).partition("=")[::2] for line in lines if line)


def kill(pids: list[int]) -> None:
    """Send SIGKILL; a process that has already ended does not matter."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def sweep(conf: Path) -> None:
    """Kill all members until none is found, twice in a row: one may be in the middle of a fork."""
    limit = time.monotonic() + PATIENT_S
    clean = 0
    while clean < 2:
        left = [pid for pid, _ in members(conf)]
        kill(left)
        clean = 0 if left else clean + 1
        if time.monotonic() > limit:
            raise SystemExit(f"these processes of {conf} do not end: {left}")
        time.sleep(0.02)


def main(directory: Path) -> None:
    """Wait for a byte from the owner, or for its end; then leave nothing behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what stops the tests must not stop what cleans up after them
    sys.stdin.buffer.read(1)
    sweep(directory / "slurm.conf")
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
