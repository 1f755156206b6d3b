"""Checkpoints with what rules look at, in columns: of thousands of them, a rule then reads a list and no objects.

    items     [saved 0, saved 1, saved 2, draft 3]      oldest first
    costs     [   0.5 ,    inf ,    0.3 ,   inf  ]      score, lower is better; inf: none that counts
    sizes     [  1000 ,   1000 ,   1000 ,  1000  ]      bytes; 0 for what a budget does not count
    numbers   [     0 ,      1 ,      2 ,     3  ]      as in the manifests; -1 for what is not lasting

A shelf does not change; one with another checkpoint shares nothing with it but the checkpoints.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, Generic, overload

from cairn.types import AnyDraft, Draft, Mode

NOT_LASTING = -1
"""In the column of numbers: a checkpoint that exists only because the run stopped."""


_FEW = 32
"""Checkpoints that are taken out of a copy one after the other."""


class Shelf(Sequence[AnyDraft], Generic[AnyDraft]):
    """Checkpoints of a run, oldest first.

    Args:
        items: The checkpoints.
        mode: Whether a lower or a higher score is better.
    """

    __slots__ = ("costs", "items", "mode", "numbers", "sizes")

    def __init__(self, items: Iterable[AnyDraft], mode: Mode) -> None:
        self.items, self.mode = list(items), mode
        rows = [_row(item, mode) for item in self.items]
        self.costs = [cost for cost, _, _ in rows]
        self.sizes = [size for _, size, _ in rows]
        self.numbers = [number for _, _, number in rows]

    def plus(self, item: Draft) -> Shelf[Draft]:
        """Return a shelf with one more, newest checkpoint."""
        cost, size, number = _row(item, self.mode)
        return _shelf(self.mode, [*self.items, item], [*self.costs, cost], [*self.sizes, size], [*self.numbers, number])

    def only(self, marks: bytearray) -> Shelf[AnyDraft]:
        """Return a shelf with the marked checkpoints; itself if all of them are."""
        if not (num_gone := marks.count(0)):
            return self
        columns: tuple[list[Any], ...] = (self.items, self.costs, self.sizes, self.numbers)
        if num_gone > _FEW:
            return _shelf(self.mode, *(list(compress(column, marks)) for column in columns))
        copies = [column[:] for column in columns]
        for place in reversed([*unmarked(marks)]):
            for column in copies:
                del column[place]
        return _shelf(self.mode, *copies)

    def without(self, names: Iterable[str]) -> Shelf[AnyDraft]:
        """Return a shelf without the checkpoints that have one of the names."""
        gone = set(names)
        stays = bytearray(b"\1") * len(self)
        for place, item in enumerate(self.items if gone else ()):
            if item.name in gone:
                stays[place] = 0
                gone.discard(item.name)
                if not gone:  # most often it is the oldest
                    break
        return self.only(stays)

    def best(self) -> int | None:
        """Place of the best lasting checkpoint, of equals the earliest; None if none has a score."""
        lowest = min(self.costs, default=math.inf)
        return self.costs.index(lowest) if lowest < math.inf else None

    def best_few(self, count: int) -> list[int]:
        """Places of the best `count` lasting checkpoints; -1: all that have a score."""
        if count == 1:
            return [] if (best := self.best()) is None else [best]
        if count < 0 or count >= len(self.costs):
            return [place for place, cost in enumerate(self.costs) if cost < math.inf][: count if count >= 0 else None]
        if count == 0:
            return []
        worst = heapq.nsmallest(count, self.costs)[-1]
        better = [place for place, cost in enumerate(self.costs) if cost < worst]
        equal = [place for place, cost in enumerate(self.costs) if cost == worst < math.inf]
        return [*better, *equal[: count - len(better)]]

    @property
    def num_passing(self) -> int:
        """Number of checkpoints that are not lasting."""
        return self.numbers.count(NOT_LASTING)

    @overload
    def __getitem__(self, place: int) -> AnyDraft: ...
    @overload
    def __getitem__(self, place: slice) -> list[AnyDraft]: ...
    def __getitem__(self, place: int | slice) -> AnyDraft | list[AnyDraft]:
        return self.items[place]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[AnyDraft]:
        return iter(self.items)


def unmarked(marks: bytearray) -> Iterator[int]:
    """Yield the places that are not marked."""
    place = marks.find(0)
    while place >= 0:
        yield place
        place = marks.find(0, place + 1)


def _row(item: Draft, mode: Mode) -> tuple[float, int, int]:
    if not item.lasting:
        return math.inf, 0, NOT_LASTING
    score = item.score
    if score is None or not math.isfinite(score):
        return math.inf, item.num_bytes, item.number
    return (score if mode == "min" else -score), item.num_bytes, item.number


def _shelf(
    mode: Mode, items: list[AnyDraft], costs: list[float], sizes: list[int], numbers: list[int]
) -> Shelf[AnyDraft]:
    made: Shelf[AnyDraft] = Shelf.__new__(Shelf)
    made.mode, made.items, made.costs, made.sizes, made.numbers = mode, items, costs, sizes, numbers
    return made
