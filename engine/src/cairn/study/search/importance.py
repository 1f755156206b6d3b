"""Which parameters mattered: trials compared at one rung, the measure, and what chance alone would give."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from cairn.errors import first_line
from cairn.study.search import explained, ped_anova
from cairn.study.search.record import Parameter, Search, Trial

Measure = Literal["ped-anova", "ranks"]

FEWEST_TRIALS = 4
"""With fewer trials, nothing is computed."""
_FEW_TRIALS, _FEW_PER_PARAMETER = 20, 10
"""Fewer trials than these mean little."""
_MOST_SHUFFLES, _LEAST_SHUFFLES, _MOST_WORK = 40, 10, 8000
"""Random orders that show what chance gives; fewer with many trials, each of which takes time."""


@dataclass(frozen=True)
class Importance:
    """Importance of each parameter, from trials at the same rung."""

    rung: int
    trials: tuple[Trial, ...]
    """The compared trials."""
    measure: Measure
    shares: Mapping[str, float]
    """From 0 to 1 for each parameter, the largest first. PED-ANOVA: their sum is 1. Ranks: each by itself."""
    chance: Mapping[str, float]
    """What nine of ten random orders of the same scores stay below, on the same scale."""
    why_plain: str = ""
    """Why it is the plain measure, although Optuna is installed."""

    @property
    def is_rough(self) -> bool:
        """Whether there are too few trials for figures that mean much."""
        return len(self.trials) < max(_FEW_TRIALS, _FEW_PER_PARAMETER * len(self.shares))


def compared(search: Search) -> tuple[int, tuple[Trial, ...]]:
    """Return the rung at which trials are compared, and the trials that have reached it.

    It is the rung that most trials have reached, and of equals the last. Of trials at different rungs, one has
    trained longer, and only the better ones have reached a later rung.
    """
    reached = [
        tuple(trial for trial in search.trials if trial.at(rung) is not None) for rung in range(len(search.rungs))
    ]
    rung = max(range(len(reached)), key=lambda place: (len(reached[place]), place))
    return rung, reached[rung]


def importance(search: Search) -> Importance | None:
    """Return the importance of the parameters; None if there are too few trials, or no parameter that differs."""
    rung, trials = compared(search)
    varied = {name: item for name, item in search.parameters.items() if _differs(name, trials)}
    if len(trials) < FEWEST_TRIALS or not varied:
        return None
    scores = _scores(search, rung, trials)
    if len(set(scores)) == 1:
        return None
    values = [{name: trial.parameters[name] for name in varied if name in trial.parameters} for trial in trials]
    orders = [scores, *_shuffled(scores)]
    measure, found, why = _measured(varied, values, orders)
    first, *others = found
    scale = sum(first.values()) or 1.0 if measure == "ped-anova" else 1.0
    names = sorted(varied, key=lambda name: -first[name])
    chance = {name: _ninth_tenth([other[name] for other in others]) / scale for name in names}
    return Importance(rung, trials, measure, {name: first[name] / scale for name in names}, chance, why)


def _scores(search: Search, rung: int, trials: Sequence[Trial]) -> list[float]:
    """Return the scores of trials at a rung, lower is better."""
    known = [None if (result := trial.at(rung)) is None else result.score for trial in trials]
    signed = [None if score is None else search.sign * score for score in known]
    # A trial that diverged is the worst, not unknown: else the parameter that made it diverge would seem harmless.
    finite = [score for score in signed if score is not None]
    worst = max(finite, default=0.0) + 1.0
    return [worst if score is None else score for score in signed]


def _measured(
    parameters: Mapping[str, Parameter], trials: Sequence[Mapping[str, Any]], orders: Sequence[Sequence[float]]
) -> tuple[Measure, list[dict[str, float]], str]:
    if find_spec("optuna") is None:
        return "ranks", _plain(parameters, trials, orders), ""
    try:
        return "ped-anova", list(ped_anova.shares(parameters, trials, orders)), ""
    except Exception as error:  # another version of Optuna, or one without its own requirements
        return "ranks", _plain(parameters, trials, orders), f"{type(error).__name__}: {first_line(error)}"


def _plain(
    parameters: Mapping[str, Parameter], trials: Sequence[Mapping[str, Any]], orders: Sequence[Sequence[float]]
) -> list[dict[str, float]]:
    found = []
    for scores in orders:
        shares = {}
        for name, parameter in parameters.items():
            pairs = [(values[name], score) for values, score in zip(trials, scores, strict=True) if name in values]
            used, of_them = [value for value, _ in pairs], [score for _, score in pairs]
            shares[name] = explained.share(used, of_them, parameter.kind == "choice")
        found.append(shares)
    return found


def _differs(name: str, trials: Sequence[Trial]) -> bool:
    return len({repr(trial.parameters[name]) for trial in trials if name in trial.parameters}) > 1


def _shuffled(scores: Sequence[float]) -> list[list[float]]:
    number = max(_LEAST_SHUFFLES, min(_MOST_SHUFFLES, _MOST_WORK // len(scores)))
    source = random.Random(0)
    return [source.sample(scores, len(scores)) for _ in range(number)]


def _ninth_tenth(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, round(0.9 * len(values)))]
