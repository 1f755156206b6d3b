"""Requests that are made several at a time, on daemon threads: one that hangs does not keep the process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from cairn.remote import bounded

_POLL_S = 0.2
_T = TypeVar("_T")
_R = TypeVar("_R")


def each(function: Callable[[_T, threading.Event], _R], items: Sequence[_T], num_at_once: int) -> list[_R]:
    """Call a function with each item, and return the results in the order of the items.

    Args:
        function: Called on several threads with an item, and an event that is set once no result is wanted any more.
        items: The items.
        num_at_once: Maximum number of calls at a time.

    Raises:
        BaseException: The first error of a call; those that have begun are not waited for.
    """
    results: dict[int, _R] = {}
    errors: list[BaseException] = []
    left, stopped = deque(enumerate(items)), threading.Event()

    def work() -> None:
        try:
            while not stopped.is_set():
                try:
                    at, item = left.popleft()
                except IndexError:
                    return
                results[at] = function(item, stopped)
        except BaseException as error:
            errors.append(error)

    count = min(num_at_once, len(items))
    threads = [threading.Thread(target=work, name="cairn-requests", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive() and not errors:
                bounded.check()
                thread.join(_POLL_S)
    finally:
        stopped.set()
    if errors:
        raise errors[0]
    return [results[at] for at in range(len(items))]
