"""Ranks in the threads of one process, which agree as processes do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class ThreadRank:
    """The agreement of one rank.

    Args:
        rank: The rank.
        board: What all ranks say, one after the other.
        barrier: Where they meet.
    """

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.leads, self._board, self._barrier = rank, rank == 0, board, barrier

    def _all(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait()
        found = list(self._board)
        self._barrier.wait()
        return found

    def meet(self, stop: str | None, special: bool) -> tuple[str | None, bool]:
        said = self._all((stop, special))
        return next((stop for stop, _ in said if stop), None), any(special for _, special in said)

    def largest(self, *numbers: int) -> list[int]:
        return [max(column) for column in zip(*self._all(numbers), strict=True)]

    failed = largest

    def share(self, value: Any) -> Any:
        return self._all(value)[0]

    def gather(self, value: Any) -> list[Any]:
        found = self._all(value)
        return found if self.leads else []


def on_threads(talk: Callable[[Any, int], Any], num_ranks: int = 2) -> list[Any]:
    """Return what a function of (agreement, rank) returns or raises on each rank."""
    board, barrier, found = [None] * num_ranks, threading.Barrier(num_ranks, timeout=60), [None] * num_ranks

    def run(rank: int) -> None:
        try:
            found[rank] = talk(ThreadRank(rank, board, barrier), rank)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
