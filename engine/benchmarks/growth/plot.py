"""Plot of the growth curves: a small panel for each, time over size, with slopes to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth.curve import Measured

_OURS, _GOAL, _GUIDE = "#d1495b", "#2e6f95", "#c8c8c8"
_COLUMNS = 4
_PANEL_INCHES = (3.4, 2.5)


def draw(found: Sequence[Measured], path: Path) -> None:
    """Draw the curves to a PNG file; without a curve there is none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [item for item in found if item.seconds]
    if not shown:
        return
    num_rows = math.ceil(len(shown) / _COLUMNS)
    num_columns = min(_COLUMNS, len(shown))
    size = (_PANEL_INCHES[0] * num_columns, _PANEL_INCHES[1] * num_rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for axis, item in zip(grid.flat, shown, strict=False):
        _panel(axis, item)
    for axis in grid.flat[len(shown) :]:
        axis.set_visible(False)
    figure.suptitle(
        "Processor time over size (grey: linear and quadratic from the first point; dashed: the goal)", fontsize=11
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _panel(axis: Any, item: Measured) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    sizes, seconds = list(item.sizes), list(item.seconds)
    axis.set_xscale("log")
    axis.set_yscale("log")
    for power in (1, 2):
        guide = [seconds[0] * (size / sizes[0]) ** power for size in sizes]
        axis.plot(sizes, guide, color=_GUIDE, lw=1, zorder=0)
    axis.plot(sizes, seconds, "o-", color=_OURS, lw=1.6, ms=4)
    for size, value in zip(sizes, seconds, strict=True):
        axis.annotate(_short(value), (size, value), (0, -11), textcoords="offset points", ha="center", fontsize=7)
    if item.goal_s is not None:
        axis.axhline(item.goal_s, color=_GOAL, ls="--", lw=1)
        axis.annotate(
            _short(item.goal_s), (0, item.goal_s), (2, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", color=_GOAL, fontsize=7,
        )  # fmt: skip
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
    axis.yaxis.set_major_formatter(lambda value, _: _short(value))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=7)
    axis.margins(x=0.12, y=0.2)
    ratio = "" if item.per_doubling is None else f"  (x {item.per_doubling:.2f} per doubling)"
    axis.set_title(f"{item.name}{ratio}", fontsize=8, loc="left")
    axis.set_xlabel(item.unit, fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _short(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{1e6 * seconds:.3g} us"
