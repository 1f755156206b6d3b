"""Figures of the table and the plot: the best score so far of each way, for each seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.search.schedule import WAYS, Plan, Way


@dataclass(frozen=True)
class Best:
    """The best trial of one seed within a budget."""

    score: float
    """Loss on the validation set, by which it was chosen."""
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class Row:
    """One way within a budget, over all seeds."""

    way: Way
    spent: int
    """Epochs."""
    of_seeds: tuple[Best | None, ...]
    """None: no trial had reached the end."""

    @property
    def known(self) -> list[Best]:
        """The seeds with a trial that reached the end."""
        return [item for item in self.of_seeds if item is not None]

    def middle(self, name: str) -> float | None:
        """Return the median of a figure over the seeds; None if it is not known for all of them."""
        values = [getattr(item, name) for item in self.known]
        return statistics.median(values) if len(values) == len(self.of_seeds) else None


def plan(raw: Mapping[str, Any]) -> Plan:
    """Return the plan of a measurement."""
    settings = raw["settings"]
    return Plan(tuple(settings["rungs"]), settings["eta"], settings["budget"])


def row(raw: Mapping[str, Any], way: Way, spent: int) -> Row:
    """Return the figures of a way within a budget."""
    return Row(way, spent, tuple(_best(run["ways"][way], spent) for run in raw["runs"]))


def _best(finished: Sequence[Mapping[str, Any]], spent: int) -> Best | None:
    within = [item for item in finished if item["spent"] <= spent]
    if not within:
        return None
    chosen = min(within, key=lambda item: item["score"])
    return Best(chosen["score"], chosen["test_loss"], chosen["test_accuracy"])


def budgets(raw: Mapping[str, Any]) -> list[int]:
    """Return the budgets of the table: a ninth, a third, and all of it, as whole full runs."""
    found = plan(raw)
    whole = found.budget // found.full
    return sorted({max(1, round(whole / part)) * found.full for part in (9, 3, 1)})


def wins(ours: Row, other: Row) -> tuple[int, int, int]:
    """Return in how many seeds our score is better, equal and worse. No score is the worst."""
    pairs = [
        (float("inf") if mine is None else mine.score, float("inf") if theirs is None else theirs.score)
        for mine, theirs in zip(ours.of_seeds, other.of_seeds, strict=True)
    ]
    return sum(a < b for a, b in pairs), sum(a == b for a, b in pairs), sum(a > b for a, b in pairs)


def num_started(raw: Mapping[str, Any], way: Way) -> int:
    """Return how many trials a way begins within the whole budget."""
    return max(run["num_started"][way] for run in raw["runs"])


def steps(raw: Mapping[str, Any], way: Way) -> list[int]:
    """Return the budgets at which a way may have found something better, in order."""
    return sorted({item["spent"] for run in raw["runs"] for item in run["ways"][way]})


def needed(raw: Mapping[str, Any], way: Way, score: float) -> int | None:
    """Return the smallest budget at which the median score of a way is as good; None if it is not within the whole."""
    for spent in steps(raw, way):
        middle = row(raw, way, spent).middle("score")
        if middle is not None and middle <= score:
            return spent
    return None


def rows(raw: Mapping[str, Any]) -> list[Row]:
    """Return the rows of the table: for each budget, each way."""
    return [row(raw, way, spent) for spent in budgets(raw) for way in WAYS]
