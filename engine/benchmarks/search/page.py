"""Table, plot and page of what a search finds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.search import figures
from benchmarks.search.figures import Row
from benchmarks.search.schedule import WAYS, Plan, Way

PAGE = Path(__file__).parent.with_name("SEARCH.md")
PICTURE = PAGE.with_name("search.png")
HEADER = ("budget", "search", "val loss (range)", "ours better, equal, worse", "test loss", "test error")
LABELS: Mapping[Way, str] = {
    "goes on": "halving that goes on",
    "restarts": "halving that restarts its trials from zero",
    "random": "random search of full runs",
}
_COLORS: Mapping[Way, str] = {"goes on": "#d1495b", "restarts": "#2e6f95", "random": "#8c8c8c"}
_GRID = "#e6e6e6"


def cells(raw: Mapping[str, Any], item: Row) -> tuple[str, ...]:
    """Return a row, in the order of HEADER."""
    budget = _full_runs(item.spent, figures.plan(raw))
    middle = item.middle("score")
    if middle is None:
        return budget, LABELS[item.way], "no trial has reached the end in each seed", "", "", ""
    scores = [one.score for one in item.known]
    ours = figures.row(raw, "goes on", item.spent)
    against = "" if item.way == "goes on" else ", ".join(map(str, figures.wins(ours, item)))
    test_loss, accuracy = item.middle("test_loss"), item.middle("test_accuracy")
    assert test_loss is not None
    assert accuracy is not None
    return (
        budget,
        LABELS[item.way],
        f"{middle:.4f} ({min(scores):.4f} to {max(scores):.4f})",
        against,
        f"{test_loss:.4f}",
        f"{100 * (1 - accuracy):.2f} %",
    )


def write(raw: Mapping[str, Any]) -> None:
    """Write the page and its picture."""
    draw(raw, PICTURE)
    PAGE.write_text(text(raw))


def text(raw: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    about, settings, plan = raw["machine"], raw["settings"], figures.plan(raw)
    num_seeds, batches = len(raw["runs"]), settings["batches_per_epoch"]
    costs = {way: plan.cost(way) for way in WAYS}
    started = {way: figures.num_started(raw, way) for way in WAYS}
    parts = [
        "# What a search finds for the same training",
        "Written by `make bench ARGS='search --write-results'` from the last measurement: do not edit.",
        f"{about['date']}: {about['cpu']}, {about['cores']} cores, Python {about['python']}, torch {about['torch']}. "
        f"The template's MLP on the digits; learning rate, weight decay, dropout and width are searched. A full run "
        f"has {plan.full} epochs of {batches} batches, with a cosine schedule over all of them; {num_seeds} seeds, "
        f"each with other settings, splits and weights.",
        f"All searches try the same settings in the same order, and have the same number of batches: "
        f"{plan.budget * batches:,}, as many as {_full_runs(plan.budget, plan)}. Halving stops trials at "
        f"{_listed(plan.rungs[:-1])} epochs, where 1 of {plan.eta} goes on; a bracket of {plan.num_started} trials, "
        f"one of which reaches the end, takes {_full_runs(costs['goes on'], plan)} if trials go on, and "
        f"{costs['restarts'] / plan.full:.3g} if each starts again from zero at each stop. So the same training is "
        f"enough for {started['goes on']}, {started['restarts']} and {started['random']} trials.",
        tables.markdown(HEADER, [cells(raw, item) for item in figures.rows(raw)]),
        "Val loss: of the best trial that was trained to the end, by which it was chosen; median and range over the "
        "seeds. Ours, halving that goes on: seeds in which it has found a better, an equal and a worse one at the same "
        "budget. Test: of the chosen trial, median.",
        *_needed(raw),
        f"![The same as a plot]({PICTURE.name})",
        "Each trial is trained once, by a plain loop in one process, and what each search spends is counted. Both "
        "halvings make the same decisions: a trial that goes on ends with the same weights as one that was never "
        "paused, and one that restarts trains the same batches again. They differ only in how many trials they can "
        "afford, so that halving that goes on never has a worse val loss at the same budget. The figures are therefore "
        "those of exact pauses; what they would be if a pause changed the training was not measured.",
        "## To repeat it",
        f"```bash\n{raw['command']}\nmake bench ARGS='search --write-results'\n```",
        "Scores do not depend on the speed of the machine, but may differ in the last digits between processors.",
    ]
    return "\n\n".join(parts) + "\n"


def _needed(raw: Mapping[str, Any]) -> list[str]:
    """Return a sentence about the training that each way needs for what random search has found in the end."""
    plan = figures.plan(raw)
    target = figures.row(raw, "random", plan.budget).middle("score")
    if target is None:
        return []
    texts = []
    for way in WAYS:
        spent = figures.needed(raw, way, target)
        enough = "does not reach it" if spent is None else f"needs {_full_runs(spent, plan)}"
        texts.append(f"{LABELS[way]} {enough}")
    return [f"To reach the median val loss of random search, {target:.4f}: {', '.join(texts)}."]


def _full_runs(epochs: int, plan: Plan) -> str:
    number = epochs / plan.full
    return "1 full run" if number == 1 else f"{number:.3g} full runs"


def _listed(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def draw(raw: Mapping[str, Any], path: Path) -> None:
    """Draw the best score over the budget to a PNG file, with the spread over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2.6, 1), sharey=True)
    for way in reversed(WAYS):
        _line(left, raw, way)
    left.set_yscale("log")
    left.set_xlim(0, figures.plan(raw).budget / figures.plan(raw).full)
    left.set_xlabel("training, in full runs", fontsize=9)
    left.set_ylabel("best val loss so far", fontsize=9)
    handles, labels = left.get_legend_handles_labels()
    left.legend(handles[::-1], labels[::-1], fontsize=8, frameon=False, loc="upper right")
    left.set_title("Median over the seeds; shaded: the middle half of them", fontsize=9, loc="left")
    _seeds(right, raw)
    for axis in (left, right):
        _style(axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=144)


def _line(axis: Any, raw: Mapping[str, Any], way: Way) -> None:
    full = figures.plan(raw).full
    spent, low, middle, high = list[float](), list[float](), list[float](), list[float]()
    for budget in [*figures.steps(raw, way), figures.plan(raw).budget]:
        found = figures.row(raw, way, budget)
        if len(found.known) < len(found.of_seeds):
            continue
        scores = sorted(item.score for item in found.known)
        quarters = statistics.quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else scores * 3
        for values, value in zip((spent, low, middle, high), (budget / full, *quarters), strict=True):
            values.append(value)
    axis.fill_between(spent, low, high, step="post", color=_COLORS[way], alpha=0.16, lw=0)
    axis.plot(spent, middle, drawstyle="steps-post", color=_COLORS[way], lw=2, label=LABELS[way])


def _seeds(axis: Any, raw: Mapping[str, Any]) -> None:
    """Draw the score of each seed with the whole budget, with a line from way to way."""
    budget = figures.plan(raw).budget
    columns = [figures.row(raw, way, budget) for way in WAYS]
    for of_seed in zip(*(column.of_seeds for column in columns), strict=True):
        points = [(place, item.score) for place, item in enumerate(of_seed) if item is not None]
        axis.plot(*zip(*points, strict=True), color="#c8c8c8", lw=0.8, zorder=1)
    for place, column in enumerate(columns):
        scores = [item.score for item in column.known]
        axis.plot([place] * len(scores), scores, "o", ms=5, mec="#ffffff", mew=0.6, color=_COLORS[column.way], zorder=2)
        if scores:
            middle = statistics.median(scores)
            axis.plot([place - 0.25, place + 0.25], [middle] * 2, color=_COLORS[column.way], lw=2.4, zorder=3)
    axis.set_xticks(range(len(WAYS)), ["halving,\ngoes on", "halving,\nrestarts", "random"])
    axis.set_xlim(-0.5, len(WAYS) - 0.5)
    axis.set_title("Each seed at the end (bar: median)", fontsize=9, loc="left")


def _style(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=15))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(True, axis="y", which="major", color=_GRID, lw=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
