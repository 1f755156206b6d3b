"""Words of the report of a search: table cells, sentences, and the figures for `--json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cairn.run import summary
from cairn.run.terminal import printable
from cairn.study import cells
from cairn.study.cells import count, percent
from cairn.study.search import names, rows
from cairn.study.search.importance import FEWEST_TRIALS
from cairn.study.search.outcome import RungOutcome
from cairn.study.search.reading import SearchStudy
from cairn.study.search.record import Trial

_MOST_ROWS = 20
"""Trials in the terminal; the page has all."""
_WIDTH, _BETWEEN = 80, 2
"""Characters of a line, and between two columns: if they are not enough, all parameters share a column."""
_MOST_NAMED = 5
"""Trials that a sentence names; of more, it gives the number."""
METHODS: Mapping[str, str] = {
    "ped-anova": "Importance by PED-ANOVA of Optuna: how much the best trials differ from all in a parameter; the sum "
    "is 100 %.",
    "ranks": "Importance is the share of the variance of the ranks of the scores that a parameter explains by itself: "
    "between its choices, or along a line with one bend over its numbers. Effects of two parameters together are not "
    "in it, and the sum is not 100 %.",
}


# In the terminal


def terminal(study: SearchStudy) -> Iterator[Table | Text]:
    """Yield the tables and sentences of the report; the tables fit 80 columns."""
    yield from (Text(sentence + "\n") for sentence in conclusion(study))
    # On a line of its own, however long, so that it can be copied.
    yield from (Text(line + "\n", no_wrap=True, overflow="ignore") for line in best_run(study))
    yield cells.table(*rows.rungs(study))
    head, body = rows.trials(study)
    if not _fits(head, body[:_MOST_ROWS]):
        head, body = rows.trials(study, is_folded=True)
    yield cells.table(head, body[:_MOST_ROWS])
    if len(body) > _MOST_ROWS:
        yield Text(f"{count(len(body) - _MOST_ROWS, 'more trial')}: see the page.\n")
    if important := rows.parameters(study):
        yield cells.table(rows.IMPORTANCE_HEADER, important)
    listed = Table.grid(padding=(0, 1))
    for sentence in notes(study):
        listed.add_row("-", escape(sentence))
    yield listed


def _fits(head: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    widths = [max(cells.LEAST_WIDTH, *map(cell_len, column)) for column in zip(head, *body, strict=True)]
    return sum(widths) + _BETWEEN * len(widths) < _WIDTH


# For machines


def figures(study: SearchStudy) -> dict[str, Any]:
    """Return all numbers for `--json`; None where one is unknown."""
    search, found = study.search, study.importance
    keys = ("state", "sweeper", "metric", "mode", "sampler", "seed", "eta", "schedule", "rungs", "command")
    return {
        "search": str(search.path),
        **{key: getattr(search, key) for key in keys},
        "best": study.best.number if study.best else None,
        "training": {
            **asdict(study.training),
            "saved": study.training.saved,
            "full_runs": study.training.full_runs,
        },
        "outcomes": [_rung_figures(study, item) for item in study.rungs],
        "trials": [
            {"rank": rank, **asdict(trial), "run": _folder(study, trial)}
            for rank, trial in enumerate(study.ranked, start=1)
        ],
        "importance": None
        if found is None
        else {
            "measure": found.measure,
            "rung": found.rung,
            "trials": [trial.number for trial in found.trials],
            "shares": dict(found.shares),
            "chance": dict(found.chance),
            "is_rough": found.is_rough,
        },
        "notes": notes(study),
    }


def _rung_figures(study: SearchStudy, item: RungOutcome) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(item).items() if name != "scores"}
    return {**plain, "stop": study.search.rungs[item.rung], "best": item.best, "median": item.middle}


def _folder(study: SearchStudy, trial: Trial) -> str | None:
    folder = study.search.folder(trial)
    return None if folder is None else str(folder)


# Sentences


def conclusion(study: SearchStudy) -> list[str]:
    """Return sentences about the search, its best trial, and how much training it took."""
    return [sentence for sentence in (_search(study), _best_trial(study), _training(study)) if sentence]


def _search(study: SearchStudy) -> str:
    search = study.search
    states = [
        f"{number} {printable(state)}"
        for state in dict.fromkeys(("finished", "stopped", "failed", "paused", "running", *_others(study)))
        if (number := sum(trial.state == state for trial in search.trials))
    ]
    stops = [names.point(search, number) for number in range(len(search.rungs))]
    way = f"{printable(search.schedule or 'halving')}, stops at {', '.join(stops)}"
    how = way if len(stops) > 1 else "every trial is trained to the end"
    facts = [f"sampler {printable(search.sampler)}"] if search.sampler else []
    facts += [f"seed {search.seed}"] if search.seed is not None else []
    facts += [f"eta {search.eta:g}"] if search.eta is not None and len(stops) > 1 else []
    under = f" ({', '.join(facts)})" if facts else ""
    going = "" if not study.is_running else " The search is not finished."
    return f"{count(len(search.trials), 'trial')}: {', '.join(states) or 'none yet'}. {_capital(how)}{under}.{going}"


def _others(study: SearchStudy) -> list[str]:
    return sorted({trial.state for trial in study.search.trials})


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _best_trial(study: SearchStudy) -> str:
    search, trial = study.search, study.best
    if trial is None or trial.last is None:
        return f"No trial has a value of {printable(search.metric)} yet."
    where = "" if len(search.rungs) == 1 else f" at {names.point(search, trial.last.rung)}"
    return (
        f"Best: trial {trial.number}, {printable(search.metric)} {names.score(trial.last.score)}{where}, with "
        f"{names.values(study.short_names, trial)}."
    )


def best_run(study: SearchStudy) -> list[str]:
    """Return a line with the directory of the best trial, or none."""
    folder = study.search.folder(study.best) if study.best is not None else None
    return [] if folder is None else [f"run of the best trial: {printable(summary.relative(folder))}"]


def _training(study: SearchStudy) -> str:
    found = study.training
    if not found.trained:
        return ""
    runs = "" if found.full_runs is None else f", as many as {found.full_runs:.3g} full runs"
    text = f"Trained {'so far ' if study.is_running else ''}{found.trained:,} batches{runs}."
    if found.full is None:
        return f"{text} The length of a full run is not recorded, so what was saved is unknown."
    if found.full <= found.trained:
        return f"{text} Every trial was trained to its end, so no training was saved."
    text += (
        f" All trials to the end would have taken {found.full:,}: {percent(found.saved)} "
        f"{'is saved if no trial goes on' if study.is_running else 'was saved'}."
    )
    if found.restarted > found.trained:
        text += (
            f" With trials that start again from zero at each stop, the same search would have taken "
            f"{found.restarted:,} batches, {percent(found.restarted / found.trained - 1)} more."
        )
    return text


def notes(study: SearchStudy) -> list[str]:
    """Return sentences about the limits of the figures."""
    return [*_about_importance(study), *_about_trials(study), *_about_training(study)]


def _about_importance(study: SearchStudy) -> Iterator[str]:
    found, search = study.importance, study.search
    if found is None:
        if search.trials:
            yield (
                f"No importance of parameters: it takes at least {FEWEST_TRIALS} trials with different scores at the "
                f"same stop, and parameters that differ."
            )
        return
    yield METHODS[found.measure]
    if found.why_plain:
        yield f"This plain measure is used because Optuna refused: {printable(found.why_plain)}."
    elif found.measure == "ranks":
        yield "With Optuna installed, PED-ANOVA is used instead."
    stop = f" at {names.point(search, found.rung)}, the stop that most trials have reached"
    after = "" if len(search.rungs) == 1 else stop
    later = " What matters only later in training does not show." if found.rung + 1 < len(search.rungs) else ""
    yield f"It compares {count(len(found.trials), 'trial')} by their scores{after}.{later}"
    yield "By chance: nine of ten random orders of the same scores give less. A smaller importance says nothing."
    if found.is_rough:
        yield f"{count(len(found.trials), 'trial')} are too few for this number of parameters: the figures mean little."


def _about_trials(study: SearchStudy) -> Iterator[str]:
    search = study.search
    failed = [trial for trial in search.trials if trial.state == "failed"]
    for trial in failed[:_MOST_NAMED]:
        why = f": {printable(trial.error.splitlines()[0])}" if trial.error and trial.error.strip() else ""
        done = max(study.reached.get(trial.number, 0), trial.last.total_batches if trial.last else 0)
        yield f"Trial {trial.number} failed after {count(done, 'batch', 'batches')}{why}."
    if len(failed) > _MOST_NAMED:
        yield f"{count(len(failed) - _MOST_NAMED, 'more trial')} failed."
    bad = [str(trial.number) for trial in search.trials if any(result.score is None for result in trial.rungs)]
    if bad:
        yield f"{_trials(bad)}: {printable(search.metric)} is missing or not finite at a stop, which ranks last there."
    if outside := [str(trial.number) for trial in search.trials if search.folder(trial) is None]:
        yield f"{_trials(outside)}: the directory is not below that of the sweep, and is not read."
    yield from _worse_later(study)
    if study.best is not None and len(search.trials) > 1:
        yield (
            f"The best score is the best of {len(search.trials)}, and so a little too good: a score on data that "
            f"did not choose the trial, such as the test of its run, is not."
        )


def _worse_later(study: SearchStudy) -> Iterator[str]:
    """Yield a sentence if the best trial has had a better score at an earlier stop."""
    search, trial = study.search, study.best
    if trial is None or trial.last is None or trial.last.score is None:
        return
    scores = {result.rung: search.sign * result.score for result in trial.rungs if result.score is not None}
    rung = min(scores, key=lambda number: scores[number])
    if scores[rung] < scores[trial.last.rung]:
        yield (
            f"Trial {trial.number} was better before: {names.score(search.sign * scores[rung])} at "
            f"{names.point(search, rung)}. Its later training has not improved {printable(search.metric)}."
        )


def _about_training(study: SearchStudy) -> Iterator[str]:
    if study.training.num_assumed:
        yield (
            f"The full length of {count(study.training.num_assumed, 'trial')} is unknown; "
            f"{study.training.full_run:,} batches are assumed, as for the others."
        )


def _trials(numbers: Sequence[str]) -> str:
    more = len(numbers) - _MOST_NAMED
    named = [*numbers[:_MOST_NAMED], f"and {more} more"] if more > 0 else numbers
    return f"Trial{'s' * (len(numbers) > 1)} {', '.join(named)}"
