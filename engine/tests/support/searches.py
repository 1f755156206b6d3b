"""Searches over runs that take no time: a trial is a number of batches, and its score follows from its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cairn.search.driver import Driver, Result
from cairn.search.rungs import END
from cairn.search.space import Float, Space
from cairn.search.state import Search, Trial

SPACE = Space({"lr": Float(1e-4, 0.1, log=True), "drop": Float(0.0, 0.5)})
PER_EPOCH, EPOCHS = 5, 9


class Killed(BaseException):
    """The process of the search has ended here."""


def search(**more: Any) -> Search:
    """Return a new search."""
    plain: dict[str, Any] = {
        "sweeper": "halving",
        "command": ("lr=...",),
        "metric": "val/loss",
        "mode": "min",
        "sampler": "random",
        "seed": 0,
        "eta": 3,
        "schedule": "halving",
        "rungs": ("1ep", "3ep", END),
        "num_trials": 9,
        "parameters": SPACE.as_json(),
    }
    return Search(**{**plain, **more})


class FakeRuns:
    """Runs that remember how far they are, as run directories do, and count each batch that they train.

    Args:
        fails: Trials that fail, with the rung where they do.
        nan: Trials whose score is not a number.
        ends: Trials that end before their last epoch, with their epochs.
    """

    def __init__(self, fails: Mapping[int, str] = {}, nan: Sequence[int] = (), ends: Mapping[int, int] = {}) -> None:
        self.fails, self.nan, self.ends = fails, nan, ends
        self.reached: dict[int, int] = {}
        self.num_batches = 0
        self.launches: list[tuple[str, list[int]]] = []
        self.cleared: set[int] = set()
        self.before: Callable[[], None] = lambda: None
        """Called before each event; may raise `Killed`."""

    def trial(self, number: int, parameters: Mapping[str, Any], bracket: int) -> Trial:
        self.before()
        return Trial(number, f"trial {number}", dict(parameters), bracket=bracket)

    def run(self, trials: Sequence[Trial], stop: str) -> dict[int, Result]:
        self.launches.append((stop, [trial.number for trial in trials]))
        return {trial.number: self._run(trial, stop) for trial in trials}

    def stopped(self, trials: Sequence[Trial], stop: str) -> None:
        self.before()
        assert all(self.reached[trial.number] == _batches(stop) for trial in trials if trial.number not in self.ends)
        self.cleared |= {trial.number for trial in trials}

    def _run(self, trial: Trial, stop: str) -> Result:
        self.before()
        last = self.ends.get(trial.number, EPOCHS)
        total, before = min(_batches(stop), last * PER_EPOCH), self.reached.get(trial.number, 0)
        self.num_batches += max(0, total - before)
        self.reached[trial.number] = max(total, before)
        self.before()
        if self.fails.get(trial.number) == stop:
            return Result(f"trial {trial.number} is broken")
        score = math.nan if trial.number in self.nan else score_of(trial.parameters, total)
        return Result("", score, total // PER_EPOCH, total, _batches(stop) >= last * PER_EPOCH, EPOCHS * PER_EPOCH)


def _batches(stop: str) -> int:
    return PER_EPOCH * (EPOCHS if stop == END else int(stop.removesuffix("ep")))


def score_of(parameters: Mapping[str, Any], total: int) -> float:
    """Return a loss that falls with training, and is lowest for one choice of parameters."""
    return abs(math.log10(parameters["lr"]) + 2) + parameters["drop"] + 10 / (10 + total)


def drive(now: Search, runs: FakeRuns, ask: Callable[[Search], Any], **more: Any) -> tuple[Search, list[Search]]:
    """Run a search to its end; return it, and each state that was kept."""
    kept: list[Search] = []

    def save(state: Search) -> None:
        runs.before()
        kept.append(state)
        runs.before()

    try:
        return Driver(now, ask, runs, save, **more).run(), kept
    except Killed as error:
        error.args = (kept,)
        raise
