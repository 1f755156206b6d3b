"""The order of a search: which trial trains when, how far, and what it costs. Which trials go on is the
decision of the sweeper itself; scores come from a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cairn.search.schedule import promoted

Way = Literal["goes on", "restarts", "random"]
WAYS: tuple[Way, ...] = ("goes on", "restarts", "random")
Score = Callable[[int, int], float]
"""Returns the score of a trial after a number of epochs; lower is better."""


@dataclass(frozen=True)
class Finished:
    """A trial that was trained to the end."""

    spent: int
    """Epochs of all trials together until then."""
    trial: int
    score: float


@dataclass(frozen=True)
class Plan:
    """A search.

    Attributes:
        rungs: Epochs at each stop, the last of which is the full length.
        eta: One of this many trials goes on at each stop.
        budget: Epochs of all trials together.
    """

    rungs: tuple[int, ...]
    eta: int
    budget: int

    @property
    def full(self) -> int:
        """Epochs of a full run."""
        return self.rungs[-1]

    @property
    def num_started(self) -> int:
        """Trials at the first stop of a bracket, of which one reaches the end."""
        return self.eta ** (len(self.rungs) - 1)

    def cost(self, way: Way) -> int:
        """Return the epochs of a bracket, or of a full run for random search."""
        if way == "random":
            return self.full
        return sum(self.num_started // self.eta**rung * self.step(way, rung) for rung in range(len(self.rungs)))

    def step(self, way: Way, rung: int) -> int:
        """Return the epochs that a trial trains for a rung."""
        done = self.rungs[rung - 1] if rung and way == "goes on" else 0
        return self.rungs[rung] - done


def search(plan: Plan, way: Way, score: Score) -> list[Finished]:
    """Search until the budget is spent; what does not fit into it is not begun.

    All ways try the same trials in the same order, so that they differ only in what they stop and what they repeat.
    """
    return _random(plan, score) if way == "random" else _halving(plan, way, score)


def _random(plan: Plan, score: Score) -> list[Finished]:
    return [
        Finished((trial + 1) * plan.full, trial, score(trial, plan.full)) for trial in range(plan.budget // plan.full)
    ]


def _halving(plan: Plan, way: Way, score: Score) -> list[Finished]:
    """Repeat brackets: all their trials train to the first stop, the best 1/eta of them to the next, and so on."""
    found: list[Finished] = []
    spent, first = 0, 0
    while True:
        trials: Sequence[int] = range(first, first + plan.num_started)
        first += plan.num_started
        for rung, epochs in enumerate(plan.rungs):
            scores = {}
            for trial in trials:
                if spent + plan.step(way, rung) > plan.budget:
                    return found
                spent += plan.step(way, rung)
                scores[trial] = score(trial, epochs)
                if rung == len(plan.rungs) - 1:
                    found.append(Finished(spent, trial, scores[trial]))
            trials = promoted(scores, len(trials), plan.eta, "min")


def best(found: Sequence[Finished], spent: int) -> Finished | None:
    """Return the best trial that was trained to the end within a number of epochs; None if there is none."""
    return min((item for item in found if item.spent <= spent), key=lambda item: item.score, default=None)
