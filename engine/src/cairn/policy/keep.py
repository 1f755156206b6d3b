"""KEEP which checkpoints: pure rules over what is saved; a checkpoint stays if any rule wants it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from cairn.types import Mode, Position, Saved, ranked
from cairn.units import parse_size as parse_size


class Rule(Protocol):
    """One wish to keep checkpoints."""

    makes_room: bool
    """True if it lets go before the next checkpoint is written, so that its limit holds at any moment."""

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        """The ones of `saved` (oldest first) that shall stay."""
        ...


class Latest:
    """The newest `count` (-1: all)."""

    makes_room = False

    def __init__(self, count: int) -> None:
        self.count = _count(count)

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        return saved if self.count < 0 else saved[len(saved) - min(self.count, len(saved)) :]


class Best:
    """The best `count` by score (-1: all that have one)."""

    makes_room = False

    def __init__(self, count: int = 1) -> None:
        self.count = _count(count)

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        best = ranked([item for item in saved if item.lasting], mode)
        return best if self.count < 0 else best[: self.count]


class EveryNth:
    """Each `n`-th save of the run, for ever."""

    makes_room = False

    def __init__(self, n: int) -> None:
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"n={n!r} must be a whole number from 1: each n-th checkpoint is kept.")
        self.n = n

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        return [item for item in saved if item.lasting and (item.number + 1) % self.n == 0]


class WithinBytes:
    """As many of the newest as fit into `num_bytes` (a number, '500MB', '20GiB') together.

    What is not lasting does not count.
    """

    makes_room = True

    def __init__(self, num_bytes: int | str) -> None:
        self.num_bytes = parse_size(num_bytes)

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        room = self.num_bytes
        for item in reversed([item for item in saved if item.lasting]):
            room -= item.num_bytes
            if room < 0:
                return
            yield item


def best_of(saved: Sequence[Saved], mode: Mode) -> Saved | None:
    """The one with the best score; one that is not lasting only if no other has a score."""
    best = ranked([item for item in saved if item.lasting], mode) or ranked(saved, mode)
    return best[0] if best else None


def survivors(rules: Iterable[Rule], saved: Sequence[Saved], mode: Mode | None) -> list[Saved]:
    """What stays of `saved` (oldest first): what any rule keeps, and always the newest and the best.

    A checkpoint that is not lasting stays only while it is the newest, so that a run which was stopped and went on
    keeps what an undisturbed one keeps. Without a mode nothing is best.
    """
    pool = [item for item in saved if item.lasting or item is saved[-1]]
    best = best_of(pool, mode) if mode else None
    names = {item.name for item in (*pool[-1:], best) if item is not None}
    for rule in rules:
        names.update(item.name for item in rule.keep(pool, mode or "min"))
    return [item for item in pool if item.name in names]


def gives_way(rules: Sequence[Rule], saved: Sequence[Saved], coming: Saved, mode: Mode | None) -> list[Saved]:
    """What of `saved` must go before `coming` is written: only a budget keeps it now, and will not then.

    Never the newest or the best: nothing good goes before its successor is there.
    """
    firm = survivors([rule for rule in rules if not rule.makes_room], saved, mode)
    then = survivors(rules, [*saved, coming], mode)
    return [item for item in survivors(rules, saved, mode) if item not in firm and item not in then]


def needs(rules: Sequence[Rule], saved: Sequence[Saved], mode: Mode | None, num_bytes: int, count: int) -> list[int]:
    """The bytes that each of the next `count` saves takes while it is written, beyond what `saved` takes now."""
    now = sum(item.num_bytes for item in saved)
    held, peaks = list(saved), []
    for number in range(count):
        coming = _like(held[-1] if held else None, number, num_bytes)
        way = gives_way(rules, held, coming, mode)
        held = [*(item for item in held if item not in way), coming]
        peaks.append(sum(item.num_bytes for item in held) - now)
        held = survivors(rules, held, mode)
    return peaks


def _like(newest: Saved | None, number: int, num_bytes: int) -> Saved:
    """A checkpoint that might come after `newest`."""
    first = Saved(f"first {number}", Position(0, 0), 0, (), None, num_bytes=num_bytes)
    if newest is None:
        return first
    later = replace(newest.position, epoch=newest.position.epoch + 1)
    return replace(first, name=f"next {number}", position=later, number=newest.number + newest.lasting)


def _count(count: int) -> int:
    if not isinstance(count, int) or count < -1:
        raise ValueError(f"count={count!r} must be a whole number from 0, or -1 for all.")
    return count
