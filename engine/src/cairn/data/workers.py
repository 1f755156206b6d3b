"""Signals in the workers of a loader: only the main process may stop a worker, and a killed one is named."""

from __future__ import annotations

import os
import re
import signal
import threading
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_sharer


def init_fn(given: Callable[[int], None] | None) -> Callable[[int], None]:
    """Return a `worker_init_fn` that leaves signals to the main process and then calls `given`, if there is one."""
    return leave_signals_to_main if given is None else partial(_both, given)


_ENDED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]*)|exited unexpectedly)"
)
"""torch's message for a worker that has ended."""


_TAKES_OVER = "_try_get_data"
"""Method of torch's iterator that takes a batch over from a worker."""
_MEMORY = "The system kills processes when memory is short: use a smaller num_workers or batch size."


def why_killed(error: BaseException) -> str:
    """Return the sentence for an error that means that a worker has ended; empty for any other error."""
    found = _ENDED.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        # A worker that ends while it hands over a batch leaves a broken connection, before torch sees its end. An error
        # of the data set itself is raised later, from its text.
        broken = isinstance(error, OSError | EOFError) and _is_of_a_handover(error)
        return f"A data worker ended while it handed over a batch. {_MEMORY}" if broken else ""
    signal_name, cure = found[2] or "", _MEMORY
    if signal_name == signal.strsignal(signal.SIGBUS):
        cure = "Shared memory (/dev/shm) is full: enlarge it, or use a smaller num_workers or batch size."
    elif signal_name not in ("", signal.strsignal(signal.SIGKILL)):
        cure = "Its own code, or a library that it calls, crashed: num_workers=0 shows where."
    how = f"was ended by a signal ({signal_name})" if signal_name else "ended without an error"
    return f"A data worker (process {found[1]}) {how}. {cure}"


def _is_of_a_handover(error: BaseException) -> bool:
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(code.co_filename == resource_sharer.__file__ or code.co_name == _TAKES_OVER for code in codes)


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
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Without sigwaitinfo (macOS) the sender of a signal is unknown, so SIGTERM keeps the handler that torch has set.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
