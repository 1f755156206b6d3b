"""KEEP which checkpoints: pure rules over what is saved; a checkpoint stays if any rule wants it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cairn.checkpoint.types import Mode, Saved, ranked


class Rule(Protocol):
    """One wish to keep checkpoints."""

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        """The ones of `saved` (oldest first) that shall stay."""
        ...


class Latest:
    """The newest `count` (-1: all)."""

    def __init__(self, count: int) -> None:
        self.count = count

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        return saved if self.count < 0 else saved[len(saved) - min(self.count, len(saved)) :]


class Best:
    """The best `count` by score (-1: all that have one)."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        best = ranked([item for item in saved if item.lasting], mode)
        return best if self.count < 0 else best[: self.count]


class EveryNth:
    """Each `n`-th save of the run, for ever."""

    def __init__(self, n: int) -> None:
        if n <= 0:
            raise ValueError(f"Keeping every n-th checkpoint needs n of at least 1, not {n}.")
        self.n = n

    def keep(self, saved: Sequence[Saved], mode: Mode) -> Iterable[Saved]:
        return [item for item in saved if item.lasting and (item.number + 1) % self.n == 0]


class WithinBytes:
    """As many of the newest as fit into `num_bytes` together; what is not lasting does not count."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

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
