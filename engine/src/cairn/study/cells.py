"""How a report writes its values and tables. One value is shown alike everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from cairn.units import format_duration

UNKNOWN = "-"
LEAST_WIDTH = 5
"""Characters of a column."""


def percent(share: float | None) -> str:
    """Format a share: `0.42 %`, `3.1 %`, `120 %`; a dash if it is unknown."""
    if share is None:
        return UNKNOWN
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def duration(seconds: float | None) -> str:
    """Format a duration with two digits; a dash if it is unknown."""
    return UNKNOWN if seconds is None else format_duration(seconds, digits=2)


def count(number: int, what: str, many: str = "") -> str:
    """Format a number of things: `1 save`, `12 saves`.

    Args:
        number: How many.
        what: One of them.
        many: Several; empty: with an s.
    """
    return f"{number} {what if number == 1 else many or what + 's'}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    """Return a table for the terminal; all columns but the first are aligned on the right."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, name in enumerate(head):
        made.add_column(escape(name), justify="right" if place else "left", overflow="fold", min_width=LEAST_WIDTH)
    for row in body:
        made.add_row(*(escape(cell) for cell in row))
    return made
