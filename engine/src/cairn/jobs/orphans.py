"""Ends a rank whose main process is gone: it may wait for it, at the start for half an hour.

In the middle of training, the connection to a process that has ended breaks, and the rank ends by that error. Before
there is a connection, nothing breaks.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from cairn.jobs import stacks

_POLL_S = 1.0
_GRACE_S = 60.0
"""How long the rank may take to end by itself: with an error, or what is left to do after the main process."""


def end_with_main(main: int, poll_s: float = _POLL_S, grace_s: float = _GRACE_S) -> None:
    """Exit some time after the main process of this run has ended, which may be the case already; returns at once.

    Args:
        main: Process id of the main process, as it has announced it. It is not read here: an orphan has another parent.
        poll_s: How often to look, in seconds.
        grace_s: How long this process may continue, in seconds.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and (parent == main or not _has_ended(main)):
            time.sleep(poll_s)
        time.sleep(grace_s)
        text = f"The main process of this run (process {main}) ended {grace_s:g} s ago: process {os.getpid()} exits.\n"
        try:
            os.write(2, text.encode())
        finally:
            os._exit(1)

    threading.Thread(target=watch, name="orphans", daemon=True).start()


def _has_ended(pid: int) -> bool:
    """Return whether a process has ended; False where it cannot be found out."""
    if sys.platform == "linux":
        return stacks.state(pid) in ("", "Z", "X")
    if os.name == "nt":  # there, signal 0 would end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
