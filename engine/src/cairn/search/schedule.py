"""HOW MANY trials begin at which rung, and which of them go on: successive halving and Hyperband, as plain functions.

    successive halving    27 trials  1ep   9 trials  3ep   3 trials  end
    Hyperband             the same, and a second bracket with fewer trials that begin with 3ep, and a third one that
                          trains a few to the end: in case early scores say little

A trial that goes on continues; nothing here starts one again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cairn.errors import ConfigError
from cairn.types import Mode

Schedule = Literal["halving", "hyperband"]


@dataclass(frozen=True)
class Bracket:
    """Trials that are compared with each other.

    Attributes:
        number: From 0.
        first_rung: The rung at which its trials stop first.
        num_trials: How many begin.
    """

    number: int
    first_rung: int
    num_trials: int


def brackets(schedule: Schedule, num_trials: int, num_rungs: int, eta: int) -> list[Bracket]:
    """Return the brackets of a search, in the order in which they run.

    Args:
        schedule: `halving`: one bracket; `hyperband`: one for each rung that trials can begin with.
        num_trials: Trials of all brackets together.
        num_rungs: Number of rungs, with the end.
        eta: One of this number of trials goes on.

    Raises:
        ConfigError: There are fewer trials than brackets.
    """
    if schedule == "halving":
        return [Bracket(0, 0, num_trials)]
    if num_trials < num_rungs:
        raise ConfigError(
            f"num_trials={num_trials} is too few for schedule='hyperband' with {num_rungs} rungs: each of its brackets "
            f"needs at least one trial.",
            parameter="num_trials",
        )
    # A bracket that begins s rungs before the end has one trial, and eta**s / (s + 1) parts of the others, so that all
    # brackets train for about as many batches.
    shares = [eta**left / (left + 1) for left in range(num_rungs - 1, -1, -1)]
    counts = [1 + math.floor((num_trials - num_rungs) * share / sum(shares)) for share in shares]
    counts[0] += num_trials - sum(counts)
    return [Bracket(number, number, count) for number, count in enumerate(counts)]


def num_promoted(num_trials: int, eta: int) -> int:
    """Return how many of the trials that began a rung go on to the next one."""
    return max(1, num_trials // eta)


def promoted(scores: Mapping[int, float | None], num_begun: int, eta: int, mode: Mode) -> list[int]:
    """Return the trials that go on, best first.

    Args:
        scores: Scores by trial, of those that have come to the rung; None or NaN: it never goes on.
        num_begun: How many have begun the rung, with those that failed in it.
        eta: One of this number of trials goes on.
        mode: Whether a lower or a higher score is better.
    """
    return ranking(scores, mode)[: num_promoted(num_begun, eta)]


def ranking(scores: Mapping[int, float | None], mode: Mode) -> list[int]:
    """Return the trials that have a finite score, best first; of equal ones the earlier trial comes first."""
    finite = {number: score for number, score in scores.items() if score is not None and math.isfinite(score)}
    sign = 1 if mode == "min" else -1
    return sorted(finite, key=lambda number: (sign * finite[number], number))


def num_batches(counts: Sequence[int], stops: Sequence[int]) -> tuple[int, int]:
    """Return the batches of a bracket if its trials continue from rung to rung, and if each rung starts again.

    Args:
        counts: How many trials begin each rung.
        stops: Batches of a run at each rung.
    """
    before = [0, *stops[:-1]]
    continued = sum(count * (stop - start) for count, stop, start in zip(counts, stops, before, strict=True))
    return continued, sum(count * stop for count, stop in zip(counts, stops, strict=True))
