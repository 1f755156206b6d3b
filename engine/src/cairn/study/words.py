"""Words of the report: table cells, sentences, and the figures for `--json`. One value is shown alike everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cairn.study import cells, goodput_words
from cairn.study.cells import UNKNOWN, count, duration, percent
from cairn.study.choice import ALIKE, FEWEST_SAVES, SHORTEST_S, Advice, Study
from cairn.study.measured import Interruption, Run
from cairn.types import SaveCost
from cairn.units import format_bytes, format_duration

_MOST_NAMED = 20
"""Runs that a sentence names; of more, it gives the number."""
RUN_FIGURES = (
    *("status", "interval", "source", "elapsed_s", "total_batches", "batch_s", "num_saves", "skipped", "spacing_s"),
    *("spacing_batches", "overhead", "cost_s", "stall_s", "stalled_s", "write_s", "written_bytes", "held_bytes"),
    *("at_risk_s", "lost_s", "unsaved_s", "monitor", "best"),
)
"""Attributes of a run that `--json` prints."""
HEADER = ("every", "saves", "overhead", "stall", "written", "held", "at risk", "lost")
"""Column heads; the best value of the monitored metric follows. `HEADER_LONG` says what they mean."""
HEADER_LONG = {
    "every": "the interval between two saves: checkpoint.save_interval, in batches unless it has a unit",
    "saves": "saves of the work that counts; saves that were lost and repeated count once",
    "overhead": "cost of saving, as a share of the time that training takes without it",
    "stall": "median time that training stood still for a save",
    "written": "size of all checkpoints that were ever written",
    "held": "size of the checkpoints that are on disk now",
    "at risk": "work that a failure would have lost, on average over the run",
    "lost": "work that was lost at all interruptions together (and how many of them lost work)",
}
_NOT_KNOWN = (
    "the mean time between failures is unknown: the table shows intervals for typical values. Set yours: --mtbf 8h."
)
ENDS = {
    "killed": "killed",
    "failed": "failed",
    "hung": "hung",
    "announced": "asked to stop",
    "planned": "stopped on purpose",
}
METHOD = (
    "A save costs the training d seconds: training stands still while the state is copied, and batches are slower "
    "while the file is written. d is the total cost of saving in all runs, divided by the number of saves. With a save "
    "every t seconds, a share d/t of the time goes to saves. A failure comes once per mean time M, on average in the "
    "middle of an interval, and loses t/2 of work: a share t/2M. The sum is smallest at t = sqrt(2dM), which is "
    "Young's formula. Daly's formula is more exact where d is not small compared with M; its interval is chosen, "
    "unless a write would not finish before the next save.",
    "A failure is an end without notice, by a kill or an error: only saves made before it help. When a signal asks a "
    "run to stop (preemption, the end of a time slot), the run saves its state and loses nothing. These stops are "
    "listed but not counted: more frequent saves would not prevent any loss. M is the total training time of the "
    "runs, lost work included, divided by the number of failures. A run that was asked to stop but lost work, because "
    "its last save did not finish in time, counts as killed.",
)
SOURCES = (
    'J. W. Young (1974), "A first order approximation to the optimum checkpoint interval", CACM 17(9):530-531',
    'J. T. Daly (2006), "A higher order estimate of the optimum checkpoint interval for restart dumps", '
    "Future Generation Computer Systems 22(3):303-312",
)


# Cells


def header(study: Study) -> list[str]:
    """Return the column heads. The last one is the monitored metric if all runs have the same."""
    monitors = {run.monitor for run in study.sweep.runs}
    return [*HEADER, monitors.pop() if len(monitors) == 1 else "best"]


def rows(study: Study) -> list[list[str]]:
    """Return a row of cells for each run."""
    parts = zip(study.sweep.labels, study.sweep.runs, study.doubts, strict=True)
    return [[label, *_cells(run, why)] for label, run, why in parts]


def _cells(run: Run, doubt: str | None) -> list[str]:
    number = str(run.num_saves) if run.source else "0"
    shown = percent(run.overhead) if doubt is None else UNKNOWN if doubt in ("no saves", "unknown") else doubt
    held = format_bytes(run.held_bytes)
    best = UNKNOWN if run.best is None else f"{run.best:.4g}"
    return [
        number,
        shown,
        duration(run.stall_s),
        _size(run.written_bytes),
        held,
        duration(run.at_risk_s),
        _lost(run),
        best,
    ]


def _lost(run: Run) -> str:
    if run.ends is None or run.lost_s is None:
        return UNKNOWN
    num_costly = sum(end.lost_batches > 0 for end in run.ends)
    return f"{duration(run.lost_s)} ({num_costly})" if num_costly else "0 s"


def end_rows(study: Study) -> list[list[str]]:
    """Return a row of cells for each interruption: how it ended, where, where the run resumed, and what was lost."""
    parts = zip(study.sweep.labels, study.sweep.runs, strict=True)
    return [[label, *_end_cells(end)] for label, run in parts for end in run.ends or ()]


def _end_cells(end: Interruption) -> list[str]:
    is_extended = end.kind == "planned" and not end.why
    what = "finished, extended" if is_extended else ENDS[end.kind] + (f" ({end.why})" if end.why else "")
    batches = [str(end.reached_batches), str(end.resumed_batches), str(end.lost_batches)]
    return [what, *batches, duration(end.lost_s)]


END_HEADER = ("every", "how it ended", "at batch", "resumed at", "batches lost", "work lost")


def advice_rows(study: Study) -> list[list[str]]:
    """Return a row of cells for each mean time between failures."""
    return [
        [format_duration(item.mtbf_s), duration(item.young_s), duration(item.daly_s), *_chosen(item)]
        for item in study.advice
    ]


def _chosen(item: Advice) -> list[str]:
    return [f"{item.interval_batches} batches", duration(item.interval_s), percent(item.loss)]


ADVICE_HEADER = ("a failure every", "Young", "Daly", "choose", "that is", "lost time")


# In the terminal


def terminal(study: Study) -> Iterator[Table | Text]:
    """Yield the tables and sentences of the report; the tables fit 80 columns."""
    yield cells.table(header(study), rows(study))
    if ends := end_rows(study):
        yield cells.table(END_HEADER, ends)
    yield from (Text(sentence + "\n") for sentence in conclusion(study))
    if len(study.advice) > 1:
        yield cells.table(ADVICE_HEADER, advice_rows(study))
    if compared := goodput_words.rows(study):
        yield Text("Goodput as measured, and as predicted for the same failures:")
        yield cells.table(goodput_words.HEADER, compared)
    head, body = goodput_words.forecast_table(study)
    if body:
        yield Text(f"{goodput_words.FORECAST} {goodput_words.assumptions(study)}")
        yield cells.table(head, body)
    listed = Table.grid(padding=(0, 1))
    for sentence in notes(study):
        listed.add_row("-", escape(sentence))
    yield listed


# For machines


def figures(study: Study) -> dict[str, Any]:
    """Return all numbers for `--json`: times in seconds, sizes in bytes, shares of 1; None where one is unknown."""
    return {
        "sweep": str(study.sweep.path),
        "runs": [_figures(*each) for each in zip(study.sweep.labels, study.sweep.runs, study.doubts, strict=True)],
        "cost": {**asdict(study.cost), "save_s": study.cost.save_s} if study.cost else None,
        "is_rough": study.is_rough,
        "failures": _counts(study),
        "mtbf_s": study.mtbf_s,
        "advice": [asdict(item) for item in study.advice],
        "goodput": goodput_words.figures(study),
        "notes": notes(study),
    }


def _figures(label: str, run: Run, doubt: str | None) -> dict[str, Any]:
    plain = {name: getattr(run, name) for name in RUN_FIGURES}
    ends = None if run.ends is None else [{**asdict(end), "lost_s": end.lost_s} for end in run.ends]
    return {"run": str(run.path), "label": label, **plain, "doubt": doubt, "ends": ends}


def _counts(study: Study) -> dict[str, Any]:
    found = study.failures
    counts = {kind: sum(end.kind == kind for end in found.ends) for kind in ENDS}
    measured = {"trained_s": found.trained_s, "measured_mtbf_s": found.mtbf_s, "mtbf_error": found.mtbf_error}
    return {**counts, **measured, "num_unrecorded": found.num_unrecorded}


# Sentences


def conclusion(study: Study) -> list[str]:
    """Return sentences about what was measured and which interval to choose."""
    return [sentence for sentence in (_cost(study), _failures(study), *_choice(study)) if sentence]


def notes(study: Study) -> list[str]:
    """Return sentences about the limits of the figures."""
    return [*_doubts(study), *_gaps(study), *_comparison(study), *_unfinished(study)]


def _cost(study: Study) -> str:
    cost = study.cost
    if cost is None:
        return "The cost of a save is unknown: no run has measured one."
    rough = "roughly " if study.is_rough else ""
    return (
        f"A save costs the training {rough}{duration(cost.save_s)} ({duration(cost.stall_s)} paused and "
        f"{duration(cost.slowdown_s)} by slower batches; {count(cost.num_saves, 'save')}), and takes "
        f"{duration(cost.write_s)} to write. A batch takes {duration(cost.batch_s)}, validations included."
    )


def _failures(study: Study) -> str:
    if study.given_mtbf_s:
        return f"Mean time between failures: {format_duration(study.given_mtbf_s)}, as given."
    found = study.failures
    if found.num_unrecorded == len(study.sweep.runs):
        return f"No run has a record of its attempts, so {_NOT_KNOWN}"
    if found.mtbf_s is None:
        announced = f" ({count(len(found.announced), 'stop')} announced)" if found.announced else ""
        return f"No run ended without notice{announced}, so {_NOT_KNOWN}"
    kept = f"{count(len(found.announced), 'announced stop')} not counted, because a run saves before it stops"
    return (
        f"Mean time between failures: {format_duration(found.mtbf_s)}, from {count(len(found.unannounced), 'end')} "
        f"without notice in {format_duration(found.trained_s)} of training{f' ({kept})' if found.announced else ''}; "
        f"its relative error is about {percent(found.mtbf_error)}, that of the interval half as much."
    )


def _choice(study: Study) -> Iterator[str]:
    cost = study.cost
    if cost is not None and not study.advice:
        yield "The cost is too small to measure in these runs: choose any interval."
    if len(study.advice) == 1 and cost is not None:
        yield _recommendation(study.advice[0], cost)


def _recommendation(advice: Advice, cost: SaveCost) -> str:
    saving, again = cost.save_s / advice.interval_s, advice.interval_s / (2 * advice.mtbf_s)
    but = {
        "failures": "",
        "overlap": f", but a write takes {duration(cost.write_s)} and must finish before the next save",
        "batch": ", but an interval has at least one batch",
    }
    return (
        f"Choose checkpoint.save_interval={advice.interval_batches}: a save every {duration(advice.interval_s)} of "
        f"training. Young's formula gives {duration(advice.young_s)}, Daly's {duration(advice.daly_s)}"
        f"{but[advice.why]}. This loses {percent(advice.loss)} of the time: {percent(saving)} to saves, "
        f"{percent(again)} to repeated work."
    )


def _doubts(study: Study) -> Iterator[str]:
    texts = {
        "few saves": f"fewer than {FEWEST_SAVES} saves, too few to estimate the overhead",
        "too short": f"less than {SHORTEST_S:g} s of training, too short to tell the overhead from warming up",
        "no saves": "no saves",
        "unknown": "no record of the cost of saving, or of the training time",
    }
    for why, text in texts.items():
        named = [label for label, found in zip(study.sweep.labels, study.doubts, strict=True) if found == why]
        if named:
            yield f"{_runs(named)}: {text}."
    if study.is_rough:
        yield (
            "The cost of a save is therefore a rough estimate, and so are the intervals: longer runs with more saves "
            "give better ones."
        )


def _gaps(study: Study) -> Iterator[str]:
    pairs = list(zip(study.sweep.labels, study.sweep.runs, strict=True))
    if named := [label for label, run in pairs if run.source == "manifests"]:
        yield (
            f"{_runs(named)}: there is no csv/checkpoints.csv (logger=csv writes it), so only the kept checkpoints "
            f"are known; the total written size and the work at risk are unknown."
        )
    if named := [label for label, run in pairs if run.ends is None]:
        yield f"{_runs(named)}: no starts.jsonl, so work that was lost at a restart is unknown."
    if named := [label for label, run in pairs if run.skipped]:
        yield f"{_runs(named)}: interval saves were dropped because the writer was busy, which puts more work at risk."


def _comparison(study: Study) -> Iterator[str]:
    spacings = {round(run.spacing_s, 9) for run in study.sweep.runs if run.spacing_s}
    if len(study.sweep.runs) > 1 and len(spacings) < 2:
        yield "All runs saved equally often: they do not show what other intervals cost."
    if study.spread > ALIKE:
        yield (
            f"The runs disagree on the cost of a save: in one it is {study.spread:.2g} times that of another. The mean "
            f"over all saves is used."
        )
    best = {run.best for run in study.sweep.runs}
    if len(study.sweep.runs) > 1 and study.sweep.varied == ("checkpoint.save_interval",) and None not in best:
        yield (
            "The best metric is the same in all runs, as it should be: saving does not change what is learned."
            if len(best) == 1
            else "The best metric differs although only the interval was varied: the runs differ in length, or their "
            "arithmetic is not deterministic."
        )


def _unfinished(study: Study) -> Iterator[str]:
    for label, run in zip(study.sweep.labels, study.sweep.runs, strict=True):
        if run.status == "running" and run.unsaved_s is not None:
            yield (
                f"{_runs([label])}: still training, or killed and not resumed; {duration(run.unsaved_s)} of work are "
                f"not in any checkpoint."
            )


# Values


def _size(num_bytes: int | None) -> str:
    return UNKNOWN if num_bytes is None else format_bytes(num_bytes)


def _runs(labels: list[str]) -> str:
    named = labels if len(labels) <= _MOST_NAMED else [*labels[:_MOST_NAMED], f"and {len(labels) - _MOST_NAMED} more"]
    return f"With interval{'s' * (len(labels) > 1)} {', '.join(named)}"
