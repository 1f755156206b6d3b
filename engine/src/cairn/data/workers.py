"""Signals in the workers of a loader: only the main process may stop a worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial


def init_fn(given: Callable[[int], None] | None) -> Callable[[int], None]:
    """Return a `worker_init_fn` that leaves signals to the main process and then calls `given`, if there is one."""
    return leave_signals_to_main if given is None else partial(_both, given)


def _both(given: Callable[[int], None], worker_id: int) -> None:
    leave_signals_to_main(worker_id)
    given(worker_id)


def leave_signals_to_main(worker_id: int) -> None:
    """Make a worker ignore the signals with which a terminal or a scheduler asks a run to stop.

    These signals reach every process of a job at once. The main process chooses the boundary to stop at, and needs its
    workers until then. SIGTERM *from the main process* still ends a worker: multiprocessing ends workers this way when
    the interpreter exits, and would hang if they ignored it.

    Args:
        worker_id: Number of the worker, as torch passes it to a `worker_init_fn`.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Without sigwaitinfo (macOS) the sender of a signal is unknown, so SIGTERM keeps the handler that torch has set.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
