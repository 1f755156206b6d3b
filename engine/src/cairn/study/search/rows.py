"""Tables of the report of a search: a row for each rung, trial, stop and parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cairn.run.terminal import printable
from cairn.study import cells
from cairn.study.cells import percent
from cairn.study.search import names
from cairn.study.search.importance import Importance
from cairn.study.search.outcome import RungOutcome
from cairn.study.search.reading import SearchStudy
from cairn.study.search.record import Trial

_STATES = {"paused": "waits", "running": "runs"}
IMPORTANCE_HEADER = ("parameter", "importance", "by chance", "searched", "best trials")


RUNG_MEANINGS = {
    "stop": "where trials pause, in their full schedule",
    "trials": "trials that reached it",
    "then": "what became of them; those that went on have not trained a batch twice",
    "cutoff": "worst score of those that went on",
    "batches": "batches of all trials from the stop before to this one",
}


TRIAL_MEANINGS = {
    "at": "the last stop that it has reached",
    "place": "its place there, among the trials of its bracket",
}


def rungs(study: SearchStudy) -> tuple[list[str], list[list[str]]]:
    """Return column heads, and a row of cells for each rung of each bracket."""
    has_brackets = len({item.bracket for item in study.rungs}) > 1
    made = []
    for item in study.rungs:
        stop = names.rung(study.search, item.rung)
        scores = (names.score(value) for value in (item.best, item.middle, item.cutoff))
        where = f"{item.bracket}: {stop}" if has_brackets else stop
        made.append([where, str(item.num_reached), _then(item), *scores, f"{item.batches:,}"])
    first = "bracket: stop" if has_brackets else "stop"
    return [first, "trials", "then", "best", "median", "cutoff", "batches"], made


def _then(item: RungOutcome) -> str:
    """Return what became of the trials at a stop: `3 went on, 6 stopped`."""
    found = {
        "went on": item.num_on,
        "stopped": item.num_stopped,
        "finished": item.num_finished,
        "failed": item.num_failed,
        "wait": item.num_waiting,
    }
    return ", ".join(f"{number} {what}" for what, number in found.items() if number)


def trials(study: SearchStudy, is_folded: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return column heads, and a row of cells for each trial, best first.

    Args:
        study: The study.
        is_folded: Put all parameters into one column.
    """
    search = study.search
    header = ["rank", "trial", printable(search.metric), "at", "place", "state"]
    header += ["parameters"] if is_folded else [study.short_names[name] for name in search.parameters]
    made = []
    for rank, trial in enumerate(study.ranked, start=1):
        last = trial.last
        known = [names.value(trial.parameters[name]) if name in trial.parameters else "" for name in search.parameters]
        at = cells.UNKNOWN if last is None else names.rung(search, last.rung)
        figures = [str(rank), str(trial.number), names.score(last.score if last else None), at]
        figures += [_place(study, trial), _state(trial)]
        made.append([*figures, *([names.values(study.short_names, trial)] if is_folded else known)])
    return header, made


def _place(study: SearchStudy, trial: Trial) -> str:
    """Return the place of a trial among those at its last stop: `2/9`."""
    place = study.places.get(trial.number)
    return f"{place[0]}/{place[1]}" if place else cells.UNKNOWN


def _state(trial: Trial) -> str:
    return names.value(_STATES.get(trial.state, trial.state))


def stops(study: SearchStudy) -> tuple[list[str], list[list[str]]]:
    """Return column heads, and a row for each stop at which a trial ended or waits, by time."""
    made = [
        (last.finished_at, [_clock(last.finished_at), str(trial.number), *_stop(study, trial)])
        for trial in study.search.trials
        if (last := trial.last) is not None and trial.state != "running"
    ]
    return ["time", "trial", "at", "score", "place", "batches", "state"], [row for _, row in sorted(made)]


def _stop(study: SearchStudy, trial: Trial) -> list[str]:
    assert trial.last is not None
    last = trial.last
    return [
        names.rung(study.search, last.rung),
        names.score(last.score),
        _place(study, trial),
        f"{last.total_batches:,}",
        _state(trial),
    ]


def _clock(finished_at: str) -> str:
    """Return a time of the file without fractions of a second; empty if it is not one."""
    text = printable(finished_at)[:19].replace("T", " ")
    return text or cells.UNKNOWN


def parameters(study: SearchStudy) -> list[list[str]]:
    """Return a row of cells for each parameter, the most important first."""
    found = study.importance
    if found is None:
        return []
    best, space = _best(study, found), study.search.parameters
    return [
        [
            study.short_names[name],
            percent(share),
            percent(found.chance[name]),
            names.space(space[name]),
            names.found(space[name], [trial.parameters[name] for trial in best if name in trial.parameters]),
        ]
        for name, share in found.shares.items()
    ]


def _best(study: SearchStudy, found: Importance) -> Sequence[Trial]:
    """Return the best quarter of the compared trials, but at least three."""

    def key(trial: Trial) -> float:
        result = trial.at(found.rung)
        return math.inf if result is None or result.score is None else study.search.sign * result.score

    return sorted(found.trials, key=key)[: max(3, len(found.trials) // 4)]
