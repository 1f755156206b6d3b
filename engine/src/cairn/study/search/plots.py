"""Pictures of the trials of a search: their learning curves, and what was trained and saved of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cairn.run.terminal import printable
from cairn.study.picture import GREY, INK, RED, Picture, new_figure, plain, style_axis
from cairn.study.search import names, parameter_plots, shades
from cairn.study.search.curves import Curve
from cairn.study.search.reading import SearchStudy
from cairn.study.search.record import Search, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CURVES, _MOST_BARS = 200, 30
"""Trials in a picture: half of them the best, the others chosen evenly from the rest."""
_LOG_FROM = 6.0
"""The axis of batches is logarithmic if the last stop is this many times as far as the first."""
_SAVED = "#eceff2"
_MOST_CHARACTERS = 36
"""Characters of a label next to a bar."""
_MANY = 60
"""With more curves than this, they are thin, so that they do not become one surface."""

_STOP: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "color": INK}
"""Style of the name of a stop."""


def pictures(study: SearchStudy) -> list[Picture]:
    """Return all pictures for which there is data."""
    found = []
    drawn = _some(study.ranked, _MOST_CURVES)
    lines = {trial.number: study.curve(trial) for trial in drawn}
    if any(lines[trial.number].batches or trial.rungs for trial in drawn):
        figure, is_cut = curves(study, drawn, lines)
        found.append(Picture("curves", _curves_caption(study, drawn, lines, is_cut), figure))
    bars = _some(study.ranked, _MOST_BARS)
    if any(_trained(study, trial) for trial in bars):
        light = "may still be trained" if study.is_running else "was saved"
        caption = f"Training of each trial, best first: dark is trained for later stops, and light grey {light}."
        found.append(Picture("trials", caption + _chosen(study, bars), trials(study, bars)))
    return found + parameter_plots.pictures(study)


def _some(ranked: Sequence[Trial], most: int) -> list[Trial]:
    if len(ranked) <= most:
        return list(ranked)
    first, rest, number = ranked[: most // 2], ranked[most // 2 :], most - most // 2
    return [*first, *(rest[round(place * (len(rest) - 1) / (number - 1))] for place in range(number))]


def _chosen(study: SearchStudy, drawn: Sequence[Trial]) -> str:
    num_trials = len(study.search.trials)
    return "" if len(drawn) == num_trials else f" Shown are {len(drawn)} of {num_trials} trials; the table has all."


def _trained(study: SearchStudy, trial: Trial) -> int:
    return max(study.reached.get(trial.number, 0), trial.last.total_batches if trial.last else 0)


# Learning curves


def curves(study: SearchStudy, drawn: Sequence[Trial], lines: Mapping[int, Curve]) -> tuple[Figure, bool]:
    """Draw the learning curve of each trial, and its scores at the stops.

    Args:
        study: The study.
        drawn: Trials to draw, best first.
        lines: Their curves, by number.

    Returns:
        The figure, and whether values are outside of it.
    """
    search = study.search
    figure = new_figure(10.5, 5.2)
    axis = figure.subplots()
    stops = _stops(search)
    if len(stops) > 1 and max(stops.values()) >= _LOG_FROM * max(1, min(stops.values())):
        axis.set_xscale("log")
    size = 1.0 if len(drawn) <= _MANY else 0.6
    for trial in reversed(drawn):
        _draw_curve(axis, study, trial, lines[trial.number], size)
    values = [value for line in lines.values() for value in _after(line, min(stops.values(), default=0))]
    values += [result.score for trial in drawn for result in trial.rungs if result.score is not None]
    shades.scale_scores(axis, search, values)
    low, high = axis.get_ylim()
    is_cut = any(not low <= value <= high for line in lines.values() for value in line.values)
    is_cut = is_cut or any(not low <= value <= high for value in values)
    for rung, batches in stops.items():
        axis.axvline(batches, color=INK, lw=0.7, ls=(0, (1, 3)), zorder=0)
        label = plain(names.rung(search, rung))
        axis.annotate(
            label, (batches, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", **_STOP
        )
    style_axis(axis, "batches")
    if axis.get_xscale() == "linear":
        axis.xaxis.set_major_formatter("{x:,.6g}")
    axis.set_ylabel(plain(printable(search.metric)), fontsize=9)
    shades.round_numbers(axis)
    _curves_legend(figure, study)
    return figure, is_cut


def _stops(search: Search) -> dict[int, int]:
    """Return the batches at the stop of each rung, where most trials have the same."""
    found = {}
    for rung in range(len(search.rungs)):
        reached = [result.total_batches for trial in search.trials if (result := trial.at(rung)) is not None]
        ((batches, number),) = Counter(reached).most_common(1) or [(0, 0)]
        if batches and 2 * number > len(reached):
            found[rung] = batches
    return found


def _after(line: Curve, batches: float) -> list[float]:
    """Return the values from half of the first stop on: those before are of hardly trained models."""
    return [value for at, value in zip(line.batches, line.values, strict=True) if at >= batches / 2]


def _draw_curve(axis: Any, study: SearchStudy, trial: Trial, line: Curve, size: float) -> None:
    search = study.search
    is_best = study.best is not None and trial.number == study.best.number
    color, width = (RED, 2.2) if is_best else (shades.of_trial(search, trial), 1.2 * size)
    known = [(result.total_batches, result.score) for result in trial.rungs if result.score is not None]
    batches, values = (line.batches, line.values) if line.batches else ([at for at, _ in known], [y for _, y in known])
    order = 3 + (trial.last.rung if trial.last else 0) + (len(search.rungs) if is_best else 0)
    axis.plot(batches, values, color=color, lw=width, zorder=order, solid_capstyle="round")
    if known:
        face = color if trial.state in ("finished", "running") else "#ffffff"
        axis.plot(*known[-1], "o", ms=5 * size, mfc=face, mec=color, mew=1.2 * size, zorder=order + 0.5)
    if trial.state == "failed" and batches:
        axis.plot(batches[-1], values[-1], "x", ms=7, mew=1.6, color=INK, zorder=order + 1)


def _curves_legend(figure: Figure, study: SearchStudy) -> None:
    from matplotlib.lines import Line2D

    search, last = study.search, len(study.search.rungs) - 1
    handles = []
    for rung in range(len(search.rungs)):
        number = sum(trial.last is not None and trial.last.rung == rung for trial in search.trials)
        verb = "reached" if study.is_running else "ended at"
        name = "trained to the end" if rung == last else f"{verb} {names.point(search, rung)}"
        if number:
            handles.append(Line2D([], [], color=shades.shade(search, rung), lw=2, label=plain(f"{name} ({number})")))
    if study.best is not None:
        handles.append(Line2D([], [], color=RED, lw=2.2, label=f"best: trial {study.best.number}"))
    if any(trial.state == "failed" for trial in search.trials):
        handles.append(Line2D([], [], marker="x", color=INK, ls="", mew=1.6, label="failed"))
    figure.legend(handles=handles, loc="outside upper center", ncols=6, fontsize=8, frameon=False)


def _curves_caption(study: SearchStudy, drawn: Sequence[Trial], lines: Mapping[int, Curve], is_cut: bool) -> str:
    text = (
        "Learning curves. A hollow circle: the trial was stopped there, has failed, or waits; a full one: it was "
        "trained to its end, or still trains."
    )
    if is_cut:
        text += " Values far from the best are outside of the picture."
    if missing := [trial for trial in drawn if trial.rungs and not lines[trial.number].batches]:
        numbers = ", ".join(str(trial.number) for trial in missing[:5]) + (", ..." if len(missing) > 5 else "")
        metric = printable(study.search.metric)
        text += f" Without {metric} in csv/metrics.csv, only the scores at the stops are known: trial {numbers}."
    return text + _chosen(study, drawn)


# What was trained, and what was saved


def trials(study: SearchStudy, drawn: Sequence[Trial]) -> Figure:
    """Draw a row for each trial: batches for each stop, those that were saved, and the score.

    Args:
        study: The study.
        drawn: Trials to draw, best first.
    """
    search = study.search
    figure = new_figure(10.5, 1.3 + 0.27 * len(drawn))
    axis = figure.subplots()
    most = max(_full(study, trial) for trial in drawn)
    for place, trial in enumerate(drawn):
        _draw_bar(axis, study, trial, place)
        last = trial.last
        text = "no score" if last is None else f"{names.score(last.score)} at {names.point(search, last.rung)}"
        axis.annotate(
            plain(text),
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    axis.set_yticks(range(len(drawn)), [_label(search, trial) for trial in drawn], fontsize=8)
    head = plain(_cut(f"trial: {', '.join(study.short_names.values())}"))
    axis.annotate(
        head,
        (-0.006, -0.62),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=8,
        color=GREY,
        annotation_clip=False,
    )
    axis.set_ylim(len(drawn) - 0.4, -0.6)
    axis.set_xlim(0, most or 1)
    style_axis(axis, "batches")
    if axis.get_xscale() == "linear":
        axis.xaxis.set_major_formatter("{x:,.6g}")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    shades.round_numbers(axis)
    _trials_legend(figure, study)
    return figure


def _label(search: Search, trial: Trial) -> str:
    """Return the number of a trial and the values of its parameters, in their order."""
    found = [names.value(trial.parameters[name]) if name in trial.parameters else "-" for name in search.parameters]
    return plain(_cut(f"{trial.number}: {', '.join(found)}"))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _full(study: SearchStudy, trial: Trial) -> int:
    return max(trial.full_batches or study.training.full_run or 0, _trained(study, trial))


def _draw_bar(axis: Any, study: SearchStudy, trial: Trial, place: int) -> None:
    search, left = study.search, 0
    full = 0 if trial.state == "failed" else _full(study, trial)
    axis.barh(place, full, color=_SAVED, height=0.62, zorder=1)
    for result in trial.rungs:
        width = result.total_batches - left
        axis.barh(place, width, left=left, color=shades.shade(search, result.rung), height=0.62, zorder=2)
        left = result.total_batches
    more = _trained(study, trial) - left
    if more > 0:
        rung = min(len(search.rungs) - 1, trial.last.rung + 1 if trial.last else 0)
        axis.barh(place, more, left=left, color=shades.shade(search, rung), height=0.3, zorder=2)
    if trial.state == "failed":
        axis.plot(left + max(0, more), place, "x", color=RED, ms=7, mew=1.8, zorder=4, clip_on=False)


def _trials_legend(figure: Figure, study: SearchStudy) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    search = study.search
    handles: list[Any] = [
        Patch(color=shades.shade(search, rung), label=plain(f"until {names.point(search, rung)}"))
        for rung in range(len(search.rungs))
    ]
    handles.append(Patch(color=_SAVED, label="may still be trained" if study.is_running else "saved"))
    if any(trial.state == "failed" for trial in search.trials):
        handles.append(Line2D([], [], marker="x", color=RED, ls="", mew=1.8, label="failed"))
    figure.legend(handles=handles, loc="outside upper center", ncols=8, fontsize=8, frameon=False)
