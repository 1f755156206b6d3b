"""Ends a rank whose main process is gone: it may wait for it, at the start for half an hour.

In the middle of training, the connection to a process that has ended breaks, and the rank ends by that error. Before
there is a connection, nothing breaks.
"""

from __future__ import annotations

import os
import threading
import time

_POLL_S = 1.0
_GRACE_S = 60.0
"""How long the rank may take to end by itself: with an error, or what is left to do after the main process."""


def end_with_parent(poll_s: float = _POLL_S, grace_s: float = _GRACE_S) -> None:
    """Exit some time after the process that has started this one has ended; returns at once.

    Args:
        poll_s: How often to look, in seconds.
        grace_s: How long this process may continue, in seconds.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_s)
        time.sleep(grace_s)
        text = (
            f"The main process of this run (process {parent}) ended {grace_s:g} s ago: process {os.getpid()} exits.\n"
        )
        try:
            os.write(2, text.encode())
        finally:
            os._exit(1)

    threading.Thread(target=watch, name="orphans", daemon=True).start()
