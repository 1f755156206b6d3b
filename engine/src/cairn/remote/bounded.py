"""Calls with a time limit, and calls that Ctrl-C can end: the client of an object store can do neither.

The call runs on a thread of its own. When its time is over, or after Ctrl-C, the thread is left alone: it ends at its
next `check`, and does not keep the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from cairn.errors import RemoteError
from cairn.remote.address import Address

START_S = 30.0
"""Maximum time for the first answer of a store at a start."""
_POLL_S = 0.2
_T = TypeVar("_T")
_own = threading.local()
"""Of the thread of a call: whether its result is still wanted."""


def call(function: Callable[[], _T], address: Address, limit_s: float | None = None) -> _T:
    """Call a function and return its result.

    Args:
        function: What to call.
        address: The mirror, for the message.
        limit_s: Maximum time in seconds; None: no limit, but signals are handled while it runs.

    Raises:
        RemoteError: The time is over.
        BaseException: What the function raised.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    done, is_abandoned = threading.Event(), threading.Event()

    def run() -> None:
        _own.is_abandoned = is_abandoned
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="cairn-remote", daemon=True).start()
    until = None if limit_s is None else time.monotonic() + limit_s
    try:
        while not done.wait(_POLL_S):  # a wait without a limit would not notice a signal
            if until is not None and time.monotonic() > until:
                raise RemoteError(
                    f"{address} does not answer within {limit_s:g} s: check the network and the endpoint."
                )
    except BaseException:
        is_abandoned.set()
        raise
    if errors:
        raise errors[0]
    return results[0]


def check() -> None:
    """End a call that was given up, at a point where nothing is half done.

    Raises:
        RemoteError: The call of this thread was given up.
    """
    if (abandoned := getattr(_own, "is_abandoned", None)) is not None and abandoned.is_set():
        raise RemoteError("The call was given up.")
