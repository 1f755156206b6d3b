"""Pictures of the report: a bar for each run, the loss over the interval, and the work that kills cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cairn.study import cells, words
from cairn.study.choice import Advice, Study, expected_loss
from cairn.study.measured import Run
from cairn.study.picture import BLUE, GREY, INK, PALE, RED, Picture, new_figure, short, style_axis
from cairn.units import format_duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_INCHES, _MIN_INCHES = 0.3, 1.5
_MOST_ROWS = 30
"""Runs in a picture. More would make it longer than any screen, and slow to draw: then some are chosen evenly."""
_MARGIN = 4.0
"""The axis of intervals extends by this factor beyond the shortest and the longest interval of interest."""
_MARGIN_BELOW = 8.0
"""The axis of losses extends by this factor below the smallest loss."""
_MAX_DECADES = 2.5
_MAX_TICKS = 400
"""With more saves than this, their ticks would form a solid bar and are omitted."""
_TIMES = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3}
_SIZES = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}
_LABEL_STYLE: dict[str, Any] = {
    "textcoords": "offset points",
    "ha": "center",
    "fontsize": 8,
    "bbox": {"facecolor": "#ffffff", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
}
"""Style of a label that stays readable on top of a line."""
_NAMED_TIMES = {
    "ms": (1e-3, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    "s": (1.0, (1, 2, 5, 10, 20, 30)),
    "min": (60.0, (1, 2, 5, 10, 20, 30)),
    "h": (3600.0, (1, 2, 5, 10)),
    "d": (86400.0, (1, 2, 4, 7, 14, 30)),
}
_LINES = ("#9ecae1", "#6baed6", "#3f8fc5", "#2e6f95", "#173f57")


def pictures(study: Study) -> list[Picture]:
    """Return all pictures for which there is data."""
    part = _part(study, study.sweep.runs)
    caption = "What each interval costs, and how much work it puts at risk."
    found = [Picture("runs", caption + _chosen(study, part), runs(part))]
    if study.cost is not None and study.advice:
        found.append(Picture("loss", _loss_caption(study) + _chosen(study, part), loss(study, part)))
    interrupted = [run for run in study.sweep.runs if run.ends]
    if interrupted:
        # With few runs, those without an interruption are shown for comparison.
        part = _part(study, study.sweep.runs if len(study.sweep.runs) <= _MOST_ROWS else interrupted)
        caption = "Training from left to right, over all attempts: saves are ticks, and lost work is red."
        found.append(Picture("kills", caption + _chosen(study, part), kills(part)))
    return found


def _part(study: Study, found: Sequence[Run]) -> Study:
    """Return a study of at most `_MOST_ROWS` of the runs, the first and the last among them."""
    if len(found) <= _MOST_ROWS:
        return study if len(found) == len(study.sweep.runs) else _some(study, found)
    last = len(found) - 1
    return _some(study, [found[round(place * last / (_MOST_ROWS - 1))] for place in range(_MOST_ROWS)])


def _some(study: Study, found: Sequence[Run]) -> Study:
    """Return a study of some of the runs, for pictures with a row for each."""
    return replace(study, sweep=replace(study.sweep, runs=tuple(found)))


def _chosen(study: Study, part: Study) -> str:
    num_shown, num_runs = len(part.sweep.runs), len(study.sweep.runs)
    return "" if num_shown == num_runs else f" Shown are {num_shown} of {num_runs} runs; the table has all."


# A bar for each run


def runs(study: Study) -> Figure:
    """Draw six panels with a row for each run, the shortest interval on top."""
    num_rows = len(study.sweep.runs)
    figure = new_figure(10.5, 2 * max(_MIN_INCHES, _ROW_INCHES * num_rows + 0.8) + 0.2)
    axes = figure.subplots(2, 3, sharey=True)
    found = study.sweep.runs
    sure = [why is None for why in study.doubts]
    overheads = [None if run.overhead is None else 100 * run.overhead for run in found]
    _bars(axes[0, 0], overheads, _column(study, 2), "overhead, %", sure)
    stalls, stall_unit = _scaled([run.stall_s for run in found], _TIMES)
    written, written_unit = _scaled([run.written_bytes for run in found], _SIZES)
    held, held_unit = _scaled([run.held_bytes for run in found], _SIZES)
    _bars(axes[0, 1], stalls, _column(study, 3), f"stall per save, {stall_unit}")
    _bars(axes[0, 2], written, _column(study, 4), f"written in total, {written_unit}")
    _bars(axes[1, 0], held, _column(study, 5), f"held on disk now, {held_unit}")
    _risk(axes[1, 1], study)
    _dots(axes[1, 2], [run.best for run in found], _column(study, 8), f"best {words.header(study)[-1]}")
    labels = [short(label) for label in study.sweep.labels]
    for axis in axes[:, 0]:
        axis.set_yticks(range(num_rows), labels, fontsize=8)
        axis.set_ylabel("save interval", fontsize=8)
        around = 1.0 if num_rows == 1 else 0.6  # a single bar must not fill the panel
        axis.set_ylim(num_rows - 1 + around, -around)
    return figure


def _column(study: Study, place: int) -> list[str]:
    return [row[place] for row in words.rows(study)]


def _bars(
    axis: Any, values: Sequence[float | None], texts: Sequence[str], label: str, sure: Sequence[bool] | None = None
) -> None:
    """Draw a bar for each value; a pale one if its run is in doubt."""
    for place, value in enumerate(values):
        fine = sure is None or sure[place]
        axis.barh(place, value or 0.0, color=BLUE if fine else PALE, height=0.66)
        _label_bar(axis, value or 0.0, place, texts[place])
    axis.set_xlim(0, 1.3 * max([value for value in values if value] or [1.0]))
    style_axis(axis, label)


def _risk(axis: Any, study: Study) -> None:
    """Draw the work at risk on average, and the total loss in red."""
    found, num_rows = study.sweep.runs, len(study.sweep.runs)
    times, unit = _scaled([*(run.at_risk_s for run in found), *(run.lost_s for run in found)], _TIMES)
    has_lost = any(times[num_rows:])
    for place, row in enumerate(words.rows(study)):
        risk, lost = times[place] or 0.0, times[num_rows + place] or 0.0
        axis.barh(place, risk, color=BLUE, height=0.66)
        axis.barh(place, lost, color=RED, height=0.2)
        _label_bar(axis, max(risk, lost), place, f"{row[6]}, lost {row[7]}" if lost else row[6])
    axis.set_xlim(0, (1.75 if has_lost else 1.3) * max([time for time in times if time] or [1.0]))
    style_axis(axis, f"at risk on average, {unit}" + (" (red: lost)" if has_lost else ""))


def _dots(axis: Any, values: Sequence[float | None], texts: Sequence[str], label: str) -> None:
    # Dots, because a score has no zero where a bar could begin.
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = (high - low) or 0.1 * abs(high) or 1.0
    for place, value in enumerate(values):
        if value is not None:
            axis.plot(value, place, "o", color=BLUE, markersize=6)
        _label_bar(axis, low if value is None else value, place, texts[place], 7)
    axis.set_xlim(low - 0.15 * room, high + 0.45 * room)
    style_axis(axis, label)


def _label_bar(axis: Any, value: float, place: int, text: str, points: int = 4) -> None:
    axis.annotate(text, (value, place), (points, 0), textcoords="offset points", va="center", fontsize=8)


# The loss over the interval


def loss(study: Study, part: Study | None = None) -> Figure:
    """Draw the expected loss over the interval, the measured runs, and the choice; both axes are logarithmic.

    Args:
        study: The study.
        part: The study of the runs to draw; None: all of them.
    """
    assert study.cost is not None
    figure = new_figure(8, 4.4)
    axis = figure.subplots()
    axis.set_xscale("log")
    axis.set_yscale("log")
    points = _grid(study)
    if len(study.advice) == 1:
        _one_curve(axis, study, study.advice[0], points)
    else:
        _many_curves(axis, study, points)
    _measured(axis, part or study, study.mtbf_s)
    _style_loss(axis, study)
    return figure


def _loss_caption(study: Study) -> str:
    if len(study.advice) == 1:
        return "Share of the time that is lost at each interval: d/t to saves, t/2M to repeated work."
    return "Share of the time that is lost at each interval, for typical mean times between failures; dots: the best."


def _grid(study: Study) -> list[float]:
    spacings = [run.spacing_s for run in study.sweep.runs if run.spacing_s]
    near = [*spacings, *(item.interval_s for item in study.advice)]
    low, high = min(near) / _MARGIN, max(near) * _MARGIN
    return [low * (high / low) ** (place / 199) for place in range(200)]


def _one_curve(axis: Any, study: Study, advice: Advice, points: Sequence[float]) -> None:
    save_s, mtbf_s = study.cost.save_s if study.cost else 0.0, advice.mtbf_s
    axis.plot(points, [100 * save_s / t for t in points], "--", color=GREY, lw=1, label="saves, d/t")
    axis.plot(points, [50 * t / mtbf_s for t in points], ":", color=GREY, lw=1.4, label="repeated work, t/2M")
    curve = [100 * expected_loss(save_s, mtbf_s, t) for t in points]
    axis.plot(points, curve, color=BLUE, lw=1.8, label=f"both, M = {format_duration(mtbf_s)}")
    axis.axvline(advice.interval_s, color=RED, lw=1, zorder=0)
    chosen = f"choose {advice.interval_batches} batches"
    axis.plot(advice.interval_s, 100 * advice.loss, "D", color=RED, ms=7, label=chosen, zorder=4)


def _many_curves(axis: Any, study: Study, points: Sequence[float]) -> None:
    save_s = study.cost.save_s if study.cost else 0.0
    axis.plot(points, [100 * save_s / t for t in points], "--", color=GREY, lw=1, label="saves alone, d/t")
    for advice, color in zip(study.advice, _LINES, strict=True):
        curve = [100 * expected_loss(save_s, advice.mtbf_s, t) for t in points]
        name = f"M = {format_duration(advice.mtbf_s)}: {advice.interval_batches} batches"
        axis.plot(points, curve, color=color, lw=1.6, label=name)
        axis.plot(advice.interval_s, 100 * advice.loss, "o", color=color, ms=6)


def _measured(axis: Any, study: Study, mtbf_s: float | None) -> None:
    """Draw a square for each run at its overhead, plus its work at risk / M if M is known; hollow if in doubt."""
    for run, label, why in zip(study.sweep.runs, study.sweep.labels, study.doubts, strict=True):
        if not run.overhead or not run.spacing_s or (mtbf_s and run.at_risk_s is None):
            continue
        lost = 100 * (run.overhead + (run.at_risk_s or 0.0) / mtbf_s if mtbf_s else run.overhead)
        face = "#ffffff" if why else INK
        axis.plot(run.spacing_s, lost, "s", ms=6, mfc=face, mec=INK, zorder=5)
        axis.annotate(short(label), (run.spacing_s, lost), (0, 7), **_LABEL_STYLE)
    rough = "\n(hollow: few saves, or too short)" if any(study.doubts) else ""
    what = "measured: overhead" + ("\n+ work at risk / M" if mtbf_s else "")
    axis.plot([], [], "s", ms=6, color=INK, label=what + rough)


def _style_loss(axis: Any, study: Study) -> None:
    batch_s = study.cost.batch_s if study.cost else 1.0
    axis.set_xlabel("training between two saves, t", fontsize=9)
    axis.set_ylabel("time lost, %", fontsize=9)
    axis.margins(x=0)
    lowest, highest = 100 * min(item.loss for item in study.advice), axis.get_ylim()[1]
    axis.set_ylim(lowest / _MARGIN_BELOW, min(100.0, highest))
    above = axis.secondary_xaxis("top", functions=(lambda t: t / batch_s, lambda n: n * batch_s))
    _time_ticks(axis.xaxis, axis.get_xlim())
    _ticks(axis.yaxis, axis.get_ylim(), "{:g}".format)
    _ticks(above.xaxis, axis.get_xlim(), "{:,.6g}".format)
    above.set_xlabel("in batches", fontsize=9)
    for each in (axis, above):
        each.tick_params(labelsize=8)
    axis.spines["right"].set_visible(False)
    axis.grid(True, which="major", color="#e6e6e6", lw=0.7)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _ticks(axis: Any, limits: tuple[float, float], text: Callable[[float], str]) -> None:
    """Put numbers at 1, 2 and 5 if there is room for them, else at powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    is_short = limits[1] / limits[0] < 10**_MAX_DECADES
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,), numticks=12))
    axis.set_major_formatter(lambda value, _: text(value))
    axis.set_minor_formatter(NullFormatter())


def _time_ticks(axis: Any, limits: tuple[float, float]) -> None:
    """Put ticks at round times, about nine of them."""
    from matplotlib.ticker import FixedLocator, NullLocator

    named = {unit * count: f"{count} {name}" for name, (unit, counts) in _NAMED_TIMES.items() for count in counts}
    inside = [second for second in sorted(named) if limits[0] <= second <= limits[1]]
    axis.set_major_locator(FixedLocator(inside[:: 1 + len(inside) // 9]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: named.get(value, ""))


# What interruptions cost


def kills(study: Study) -> Figure:
    """Draw a row for each run: training that counts is blue, lost training is red."""
    from matplotlib.ticker import MultipleLocator

    found = study.sweep.runs
    figure = new_figure(10.5, 1.1 + 0.42 * len(found))
    axis = figure.subplots()
    for place, run in enumerate(found):
        _draw_attempts(axis, place, run)
    axis.set_yticks(range(len(found)), [short(label) for label in study.sweep.labels], fontsize=8)
    axis.set_ylabel("save interval", fontsize=8)
    axis.set_ylim(len(found) - 0.4, -0.7)
    (most,), unit = _scaled([max(run.trained_s for run in found)], _TIMES)
    style_axis(axis, f"total training, {unit}")
    axis.set_xlim(0, 1.02 * (most or 1.0) * _TIMES[unit])
    axis.xaxis.set_major_locator(MultipleLocator(_step(most or 1.0) * _TIMES[unit]))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / _TIMES[unit]:g}")
    _legend(figure)
    return figure


def _step(most: float) -> float:
    """Return 1, 2 or 5 times a power of ten, so that the axis has five to ten steps."""
    power = 10 ** math.floor(math.log10(most))
    return next(power * step for step in (0.1, 0.2, 0.5, 1.0) if most <= 10 * power * step)


def _draw_attempts(axis: Any, place: int, run: Run) -> None:
    began_s, left_s = 0.0, 0.0  # where the attempt begins, in training time of the run and on the axis
    for end in run.ends or ():
        counts_s = max(0.0, end.reached_s - end.lost_s - began_s)
        _draw_stretch(axis, place, run, left_s, began_s, counts_s)
        axis.barh(place, end.lost_s, left=left_s + counts_s, color=RED, height=0.5)
        left_s, began_s = left_s + counts_s + end.lost_s, end.resumed_s
        axis.plot(left_s, place, "x" if end.is_failure else "|", color=INK, ms=8, mew=1.6, zorder=4)
        if end.lost_s:
            axis.annotate(
                cells.duration(end.lost_s), (left_s, place - 0.27), ha="right", va="bottom", fontsize=7, color=RED
            )
    _draw_stretch(axis, place, run, left_s, began_s, max(0.0, (run.elapsed_s or 0.0) - began_s))


def _draw_stretch(axis: Any, place: int, run: Run, left_s: float, began_s: float, long_s: float) -> None:
    """Draw training that counts, with a tick for each save."""
    axis.barh(place, long_s, left=left_s, color=BLUE, height=0.5)
    times = [save.at_s for save in run.once if save.at_s is not None and began_s < save.at_s <= began_s + long_s]
    if len(run.once) <= _MAX_TICKS:
        axis.vlines([left_s + at_s - began_s for at_s in times], place - 0.25, place + 0.25, color="#ffffff", lw=0.8)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=BLUE, label="training (white: a save)"),
        Patch(color=RED, label="lost and repeated"),
        Line2D([], [], marker="x", color=INK, ls="", label="killed or failed"),
        Line2D([], [], marker="|", color=INK, ls="", mew=1.6, label="stopped without loss"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8, frameon=False)


def _scaled(values: Sequence[float | None], units: dict[str, float]) -> tuple[list[float | None], str]:
    """Return the values in the largest unit that one of them reaches, and the name of the unit."""
    most = max((value for value in values if value is not None), default=0.0)
    name = next((name for name, unit in units.items() if most >= unit), [*units][-1])
    return [None if value is None else value / units[name] for value in values], name
