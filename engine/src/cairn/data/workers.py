"""Decides which signals a loader's worker obeys: only the main process may end it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial


def init_fn(given: Callable[[int], None] | None) -> Callable[[int], None]:
    """A `worker_init_fn` that leaves the signals to the main process, then does what was `given`."""
    return leave_signals_to_main if given is None else partial(_both, given)


def _both(given: Callable[[int], None], worker_id: int) -> None:
    leave_signals_to_main(worker_id)
    given(worker_id)


def leave_signals_to_main(worker_id: int) -> None:
    """A `worker_init_fn`: ignore the signals by which a terminal or a scheduler asks a run to stop.

    They reach every process of the job at once. The main process decides where it stops, and it needs its
    workers until then. SIGTERM *from the main process* still ends the worker: that is how multiprocessing
    gets rid of workers when the interpreter exits, and it would wait for ever if they ignored it.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Without sigwaitinfo (macOS) nobody can tell who sent it, and SIGTERM stays what torch made it.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
