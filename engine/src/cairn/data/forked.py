"""Runs a trial of the user's code in a process of its own, so that nothing of it stays."""

from __future__ import annotations

import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

import torch

_MOST_ANSWER = 2_000


def forked(trial: Callable[[], str], limit_s: float) -> str:
    """Run a trial in a forked process, and return its result; '' if it takes too long, fails, or cannot be run.

    What the user's code does in it (files, threads, counters, clients) stays in that process, which is one like those
    of a torch loader with workers.

    Args:
        trial: Returns a short text.
        limit_s: Time after which the process is killed, in seconds.
    """
    if sys.platform != "linux":
        return ""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads
        pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            torch.set_num_threads(1)  # as in the workers of a loader
            _silence()
            os.write(writes, trial().encode()[:_MOST_ANSWER])
        os._exit(0)
    os.close(writes)
    try:
        ready = select.select([reads], [], [], limit_s)[0]
        return os.read(reads, _MOST_ANSWER).decode(errors="replace") if ready else ""
    finally:
        os.close(reads)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _silence() -> None:
    """Let this process print nothing, and let no signal handler of the process that it was forked from run in it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
