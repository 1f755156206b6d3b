"""How a search went: the order of its trials, what happened at each rung, and how much training it took."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low

from cairn.study.search.record import Search, Trial


@dataclass(frozen=True)
class RungOutcome:
    """What happened to the trials of a bracket at the stop of a rung."""

    bracket: int
    rung: int
    scores: tuple[float, ...]
    """Scores of the trials that reached it, best first."""
    num_reached: int
    num_on: int
    """Trials that went on."""
    num_stopped: int
    num_waiting: int
    """Trials about which nothing is decided yet."""
    num_failed: int
    """Trials that failed after it, before the next stop."""
    num_finished: int
    cutoff: float | None
    """Worst score of those that went on."""
    batches: int
    """Batches that were trained for this rung."""

    @property
    def best(self) -> float | None:
        """Best score; None if no trial has one."""
        return self.scores[0] if self.scores else None

    @property
    def middle(self) -> float | None:
        """Median score; None if no trial has one."""
        return median(self.scores) if self.scores else None


@dataclass(frozen=True)
class Training:
    """Batches of all trials together."""

    trained: int
    full: int | None
    """If all trials had been trained to the end, as far as they did not fail; None if no full length is known."""
    restarted: int
    """If each trial had started again from zero at each rung."""
    num_assumed: int
    """Trials whose full length is taken from the others."""
    full_run: int | None
    """A run to the end; the median, if they differ."""

    @property
    def saved(self) -> float | None:
        """Share of the training that was saved against running all trials to the end."""
        return 1 - self.trained / self.full if self.full else None

    @property
    def full_runs(self) -> float | None:
        """Training in runs to the end."""
        return self.trained / self.full_run if self.full_run else None


def ranked(search: Search) -> list[Trial]:
    """Return all trials, best first.

    Trials are compared at the last rung that both have reached: a trial that went further passed one that was stopped,
    and of two that ended at the same rung, the better score counts. Trials without a score come after those with one,
    and failed trials after all others.
    """

    def key(trial: Trial) -> tuple[bool, int, bool, float, int]:
        has_failed, last = trial.state == "failed", trial.last
        if last is None:
            return has_failed, 1, True, 0.0, trial.number
        score = last.score
        return has_failed, -last.rung, score is None, 0.0 if score is None else search.sign * score, trial.number

    return sorted(search.trials, key=key)


def best(search: Search) -> Trial | None:
    """Return the best trial; None if no trial has a score."""
    # The first of all may have reached the last rung without a score: then a trial with one is better.
    sound = [trial for trial in ranked(search) if trial.state != "failed"]
    return next((trial for trial in sound if trial.last is not None and trial.last.score is not None), None)


def places(search: Search) -> dict[int, tuple[int, int]]:
    """Return the place of each trial among those of its bracket at its last rung, and their number.

    Trials that have not reached a rung, or have no score there, have no place.
    """
    groups = defaultdict[tuple[int, int], list[float | None]](list)
    for trial in search.trials:
        for result in trial.rungs:
            groups[trial.bracket, result.rung].append(result.score)
    ordered = {
        group: sorted(search.sign * score for score in scores if score is not None) for group, scores in groups.items()
    }
    found = {}
    for trial in search.trials:
        if trial.last is not None and trial.last.score is not None:
            group = trial.bracket, trial.last.rung
            better = bisect_left(ordered[group], search.sign * trial.last.score)
            found[trial.number] = better + 1, len(groups[group])
    return found


def rungs(search: Search) -> list[RungOutcome]:
    """Return what happened at each rung of each bracket that a trial has reached."""
    brackets = sorted({trial.bracket for trial in search.trials})
    pairs = [(bracket, rung) for bracket in brackets for rung in range(len(search.rungs))]
    return [_rung(search, bracket, rung) for bracket, rung in pairs if _results(search, bracket, rung)]


def training(search: Search, reached: Mapping[int, int]) -> Training:
    """Return how much was trained.

    Args:
        search: The search.
        reached: Batches that trials have reached by their own record, by number: more than at their last rung, if they
            are running or have failed on the way.
    """
    known = [trial.full_batches for trial in search.trials if trial.full_batches]
    full_run = median_low(known) if known else None
    done = {trial.number: _trained(trial, reached) for trial in search.trials}
    full, num_assumed = 0, 0
    for trial in search.trials:
        if trial.state == "failed":  # it would have failed as well
            full += done[trial.number]
            continue
        num_assumed += not trial.full_batches
        full += max(done[trial.number], trial.full_batches or full_run or 0)
    again = sum(_restarted(trial, done[trial.number]) for trial in search.trials)
    return Training(
        trained=sum(done.values()),
        full=full if known else None,
        restarted=again,
        num_assumed=num_assumed if known else 0,
        full_run=full_run,
    )


def _trained(trial: Trial, reached: Mapping[int, int]) -> int:
    return max(trial.last.total_batches if trial.last else 0, reached.get(trial.number, 0))


def _restarted(trial: Trial, done: int) -> int:
    """Return the batches of a trial that starts again from zero for each rung, and now has trained `done` batches."""
    # A trial whose training was over before it reached a rung has no batches for it.
    stops = [result.total_batches for result in trial.rungs if result.batches]
    return sum(stops) + (done if done > max(stops, default=0) else 0)


def _results(search: Search, bracket: int, rung: int) -> list[tuple[Trial, float | None]]:
    of_bracket = [trial for trial in search.trials if trial.bracket == bracket]
    return [(trial, result.score) for trial in of_bracket if (result := trial.at(rung)) is not None]


def _rung(search: Search, bracket: int, rung: int) -> RungOutcome:
    found = _results(search, bracket, rung)
    scores = sorted((score for _, score in found if score is not None), key=lambda score: search.sign * score)
    ends = [_end(trial, rung) for trial, _ in found]
    on = [score for (_, score), end in zip(found, ends, strict=True) if end == "on" and score is not None]
    return RungOutcome(
        bracket=bracket,
        rung=rung,
        scores=tuple(scores),
        num_reached=len(found),
        num_on=ends.count("on"),
        num_stopped=ends.count("stopped"),
        num_waiting=ends.count("paused"),
        num_failed=ends.count("failed"),
        num_finished=ends.count("finished"),
        cutoff=_worst(search, on),
        batches=sum(result.batches for trial, _ in found if (result := trial.at(rung)) is not None),
    )


def _end(trial: Trial, rung: int) -> str:
    """Return what became of a trial at the stop of a rung: `on`, or its state if it went no further."""
    assert trial.last is not None
    if trial.last.rung > rung or trial.state == "running":
        return "on"
    return trial.state


def _worst(search: Search, scores: Sequence[float]) -> float | None:
    return max(scores, key=lambda score: search.sign * score, default=None)
