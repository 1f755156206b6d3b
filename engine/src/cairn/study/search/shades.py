"""Colours and axes that all pictures of a search share: a shade for each rung, and a scale for the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cairn.study.picture import PALE
from cairn.study.search.record import Search, Trial

_DARK = "#173f57"
_KEPT, _FAR = 0.9, 3.0
"""Scores that are this many times as far from the best as this share of them are outside of a picture: a trial that
diverged would else hide all others."""
_WIDE = 8.0
"""Scores whose largest is more than this many times the smallest get a logarithmic axis."""
_SMALLEST = 1e-100
_MANY_TICKS = 300.0
"""A logarithmic axis that is longer than this factor has ticks at powers of ten only."""
_ROOM = 0.06
"""Empty part of the axis at both ends."""


def shade(search: Search, rung: int) -> str:
    """Return the colour of a rung: pale for the first, dark for the last."""
    last = len(search.rungs) - 1
    return _between(PALE, _DARK, 0.7 if last == 0 else rung / last)


def of_trial(search: Search, trial: Trial) -> str:
    """Return the colour of the last rung that a trial has reached."""
    return shade(search, trial.last.rung if trial.last is not None else 0)


def scale_scores(axis: Any, search: Search, values: Sequence[float]) -> None:
    """Set the limits and the scale of the vertical axis. Values far from the best may be outside.

    Args:
        axis: Axes of matplotlib.
        search: Its mode says which end is the good one, which is always shown.
        values: The values that are drawn.
    """
    if not values:
        return
    ordered = sorted(values, key=lambda value: search.sign * value)
    best, usual = ordered[0], ordered[int(_KEPT * (len(ordered) - 1))]
    is_log = min(values) > _SMALLEST and max(best, usual) / min(best, usual) > _WIDE
    place = math.log if is_log else float
    span = abs(place(usual) - place(best))
    inside = [value for value in ordered if not span or abs(place(value) - place(best)) <= _FAR * span]
    low, high = min(inside), max(inside)
    if is_log:
        axis.set_yscale("log")
        axis.set_ylim(low / (high / low) ** _ROOM, high * (high / low) ** _ROOM)
    else:
        room = _ROOM * (high - low) or 0.1 * abs(high) or 1.0
        axis.set_ylim(low - room, high + room)


def round_numbers(axis: Any) -> None:
    """Write plain numbers instead of powers of ten, as far as there is room.

    Args:
        axis: Axes of matplotlib, whose limits are set.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    for each, scale in ((axis.xaxis, axis.get_xscale()), (axis.yaxis, axis.get_yscale())):
        if scale == "log":
            low, high = each.get_view_interval()
            each.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _MANY_TICKS else (1,), numticks=12))
            each.set_minor_formatter(NullFormatter())
            each.set_major_formatter(lambda value, _: f"{value:,.6g}")


def _between(one: str, other: str, share: float) -> str:
    pairs = ((int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(begin + share * (end - begin)):02x}" for begin, end in pairs)
