"""The order of a search: which trials are asked for, which of them run next, and what is decided at a rung.

Everything follows from the state, so that a search that was killed goes on where it was:

    bracket:  ask for a few trials, run them to the first rung, ask for the next ones with what is known by then, ...
              when all have come to a rung: some go on to the next rung, the others are stopped
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cairn.search.schedule import Bracket, brackets, promoted
from cairn.search.state import Search, Trial


@dataclass(frozen=True)
class Result:
    """What has become of a trial that was run to a rung.

    Attributes:
        error: Why it has failed; empty if it has come to the rung.
        score: Value of the metric there.
        epoch: Complete epochs.
        total_batches: Batches that it has trained so far.
        is_over: Its training has come to its end.
        full_batches: What a run to the end takes; None: unknown.
    """

    error: str = ""
    score: float | None = None
    epoch: int = 0
    total_batches: int = 0
    is_over: bool = False
    full_batches: int | None = None


class Runs(Protocol):
    """Makes trials, and runs them."""

    def trial(self, number: int, parameters: Mapping[str, Any], bracket: int) -> Trial:
        """Return a new trial."""
        ...

    def run(self, trials: Sequence[Trial], stop: str) -> Mapping[int, Result]:
        """Train trials until they stop there, and return what became of each; those that have stopped there before
        are not trained again."""
        ...

    def stopped(self, trials: Sequence[Trial], stop: str) -> None:
        """These trials have stopped there for good: delete what they need not keep. May be called again for them."""
        ...


class Driver:
    """Runs a search to its end.

    Args:
        search: The state, new or from an earlier command.
        ask: Returns the parameters of the next trial.
        runs: Makes trials, and runs them.
        save: Keeps the state; called after each event.
        num_parallel: Trials of a first rung that run together, before the next ones are asked for.
        num_together: Trials of another rung that run together; None: all.
    """

    def __init__(
        self,
        search: Search,
        ask: Callable[[Search], Mapping[str, Any]],
        runs: Runs,
        save: Callable[[Search], None],
        num_parallel: int = 1,
        num_together: int | None = None,
    ) -> None:
        self.search, self._ask, self._runs, self._save = search, ask, runs, save
        self._num_parallel, self._num_together = num_parallel, num_together

    def run(self) -> Search:
        """Run what is left to do.

        Returns:
            The finished search. That it is finished is not kept: a search that ends is shown first.
        """
        given = self.search
        self._keep(given)
        for bracket in brackets(given.schedule, given.num_trials, len(given.rungs), given.eta):
            self._begin(bracket)
            for rung in range(bracket.first_rung, len(given.rungs)):
                self._run(self._of_rung(bracket, rung), rung, self._num_together)
                self._decide(bracket, rung)
        return replace(self.search, state="finished")

    def _begin(self, bracket: Bracket) -> None:
        """Ask for the trials of a bracket, and run them to its first rung."""
        while True:
            begun = self.search.of_bracket(bracket.number)
            waiting = [trial for trial in begun if _runs_to(trial, bracket.first_rung, bracket)]
            for _ in range(min(self._num_parallel - len(waiting), bracket.num_trials - len(begun))):
                number = len(self.search.trials)
                trial = self._runs.trial(number, self._ask(self.search), bracket.number)
                waiting.append(trial)
                self._keep(self.search.with_trial(trial))
            if not waiting:
                return
            self._run(waiting[: self._num_parallel], bracket.first_rung, None)

    def _of_rung(self, bracket: Bracket, rung: int) -> list[Trial]:
        return [trial for trial in self.search.of_bracket(bracket.number) if _runs_to(trial, rung, bracket)]

    def _run(self, trials: Sequence[Trial], rung: int, num_together: int | None) -> None:
        """Run trials to a rung, and take their results into the state."""
        size = num_together or max(1, len(trials))
        for first in range(0, len(trials), size):
            some = trials[first : first + size]
            results, search = self._runs.run(some, self.search.rungs[rung]), self.search
            for trial in some:
                search = search.with_trial(_after(trial, rung, results[trial.number], len(search.rungs)))
            self._keep(search)

    def _decide(self, bracket: Bracket, rung: int) -> None:
        """All trials have come to a rung: let the best go on, and stop the others. It may be decided already."""
        search, trials = self.search, self.search.of_bracket(bracket.number)
        if rung + 1 < len(search.rungs):
            scores = {trial.number: here.score for trial in trials if (here := trial.at(rung)) is not None}
            num_failed = sum(trial.state == "failed" and _next_rung(trial, bracket) == rung for trial in trials)
            best = promoted(scores, len(scores) + num_failed, search.eta, search.mode)
            for trial in trials:
                search = search.with_trial(_decided(trial, rung, trial.number in best))
            self._keep(search)
        stopped = [trial for trial in self.search.of_bracket(bracket.number) if trial.state == "stopped"]
        self._runs.stopped([trial for trial in stopped if trial.rungs[-1].rung == rung], search.rungs[rung])

    def _keep(self, search: Search) -> None:
        self.search = search
        self._save(search)


def _next_rung(trial: Trial, bracket: Bracket) -> int:
    return trial.rungs[-1].rung + 1 if trial.rungs else bracket.first_rung


def _runs_to(trial: Trial, rung: int, bracket: Bracket) -> bool:
    return trial.state == "running" and _next_rung(trial, bracket) == rung


def _after(trial: Trial, rung: int, result: Result, num_rungs: int) -> Trial:
    """Return a trial that was run to a rung."""
    if result.error:
        return replace(trial, state="failed", error=result.error)
    there = trial.reaches(rung, result.score, result.epoch, result.total_batches)
    is_over = result.is_over or rung + 1 == num_rungs
    full = result.total_batches if is_over else result.full_batches
    return replace(there, state="finished" if is_over else "paused", full_batches=full)


def _decided(trial: Trial, rung: int, goes_on: bool) -> Trial:
    if not trial.rungs or trial.rungs[-1].rung != rung:  # it has failed before, or was let go on before
        return trial
    if trial.state == "paused":
        return replace(trial, state="running" if goes_on else "stopped")
    if trial.state == "finished" and goes_on:  # its training is over, and its score takes part in the next rung
        last = trial.rungs[-1]
        return trial.reaches(rung + 1, last.score, last.epoch, last.total_batches)
    return trial
