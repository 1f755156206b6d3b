"""Words of the report about goodput: measured, predicted for the same failures, and predicted for other plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cairn.study.choice import Study
from cairn.study.prediction import Forecast, Replay, forecasts, replays, restarts
from cairn.study.simulate import Spent
from cairn.units import format_duration

MOST_ROWS = 10
"""More runs than these are shown as their sum."""
HEADER = ("every", "", "goodput", "counted", "saving", "starting", "lost", "waiting")
MEANINGS = (
    "Goodput is the share of the time, from the first start to the end, in training that counts. Saving is training "
    "time that saves cost; starting is the time from the start of a process to its first batch; lost is work that was "
    "trained again; waiting is the time between attempts, and after the last batch of each.",
    "The prediction replays the same failures in a simulation: a run saves at its average interval, each save costs "
    "the average, and each restart takes the average.",
)
FORECAST = (
    "Predicted goodput by the interval between two saves (rows) and the mean time between failures (columns); failures "
    "come independently of each other."
)


def rows(study: Study) -> list[list[str]]:
    """Return two rows of cells for each run: measured, and predicted for the same failures."""
    found = replays(study)
    if len(found) > MOST_ROWS:
        both = [("all runs", _sum([item.measured for item in found]), _sum([item.predicted for item in found]))]
    else:
        labels = {run.path: label for run, label in zip(study.sweep.runs, study.sweep.labels, strict=True)}
        both = [(labels[item.run.path], item.measured, item.predicted) for item in found]
    return [
        row
        for label, measured, predicted in both
        for row in ([label, "measured", *_cells(measured)], ["", "predicted", *_cells(predicted)])
    ]


def forecast_table(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of predictions; no rows if the cost of a save is unknown."""
    found = forecasts(study)
    mtbfs_s = list(dict.fromkeys(item.mtbf_s for item in found))
    by_interval: dict[float, list[Forecast]] = {}
    for item in found:
        by_interval.setdefault(item.interval_s, []).append(item)
    body = [
        [_duration(interval_s), *(_percent(item.spent.goodput) for item in items)]
        for interval_s, items in by_interval.items()
    ]
    return ["a save every", *(_duration(mtbf_s) for mtbf_s in mtbfs_s)], body


def assumptions(study: Study) -> str:
    """Return what the predictions assume of a restart, as a sentence."""
    known = restarts(study.sweep.runs)
    return (
        f"A restart takes {_duration(known.wait_s)} of waiting and {_duration(known.start_s)} of starting, as measured."
    )


def figures(study: Study) -> dict[str, Any]:
    """Return the numbers for `--json`; times in seconds."""
    return {
        "runs": [_replay_figures(item) for item in replays(study)],
        "restart": asdict(restarts(study.sweep.runs)),
        "predictions": [
            {"interval_s": item.interval_s, "mtbf_s": item.mtbf_s, "goodput": item.spent.goodput}
            for item in forecasts(study)
        ],
    }


def _replay_figures(item: Replay) -> dict[str, Any]:
    return {
        "run": str(item.run.path),
        "measured": _spent_figures(item.measured),
        "predicted": _spent_figures(item.predicted),
    }


def _spent_figures(spent: Spent) -> dict[str, Any]:
    return {"goodput": spent.goodput, "total_s": spent.total_s, **asdict(spent)}


def _cells(spent: Spent) -> list[str]:
    times_s = (spent.counted_s, spent.saving_s, spent.starting_s, spent.lost_s, spent.waiting_s)
    return [_percent(spent.goodput), *map(_duration, times_s)]


def _sum(parts: Sequence[Spent]) -> Spent:
    return sum(parts[1:], parts[0])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    return format_duration(seconds, digits=2)
