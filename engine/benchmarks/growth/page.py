"""Table and page of the growth curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.growth import plot
from benchmarks.growth.curve import Measured

PAGE = Path(__file__).parent.with_name("GROWTH.md")
PICTURE = PAGE.with_name("growth.png")
REMARKS = Path(__file__).with_name("remarks.md")
"""Hand-written remarks: what the figures were before, and why a goal was missed."""

HEADER = ("curve", "of", "at the three sizes", "per doubling", "peak MB", "goal", "")
SHORT = ("curve", "small", "middle", "large", "x2", "goal", "")
"""Header of the table in the terminal, which fits into a line of 100 characters."""


def cells(item: Measured) -> tuple[str, ...]:
    """Return the row of a curve, in the order of HEADER."""
    pairs = zip(item.sizes, item.seconds, strict=True)
    ratio = tables.UNKNOWN if item.per_doubling is None else f"x {item.per_doubling:.2f}"
    peak = f"{max(item.peak_bytes) / 1e6:.0f}" if item.peak_bytes else tables.UNKNOWN
    goal = "" if item.goal_s is None else shown(item.goal_s)
    figures = ", ".join(f"{size:,}: {shown(seconds)}" for size, seconds in pairs)
    return item.what, item.unit, figures + (f" {item.error}" if item.error else ""), ratio, peak, goal, item.verdict


def short_cells(item: Measured) -> tuple[str, ...]:
    """Return the row of a curve, in the order of SHORT."""
    times = [f"{size:,}: {shown(seconds)}" for size, seconds in zip(item.sizes, item.seconds, strict=True)]
    padded = [*times, *[""] * (3 - len(times))]
    _, _, _, ratio, _, goal, verdict = cells(item)
    return item.name, *padded, ratio.removeprefix("x "), goal, verdict


def shown(seconds: float) -> str:
    """Format a time with three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def write(raw: Mapping[str, Any], found: Sequence[Measured]) -> None:
    """Write the page and its picture."""
    plot.draw(found, PICTURE)
    PAGE.write_text(text(raw, found, REMARKS.read_text().strip() if REMARKS.exists() else ""))


def text(raw: Mapping[str, Any], found: Sequence[Measured], remarks: str = "") -> str:
    """Return the page in Markdown.

    Args:
        raw: JSON of a measurement.
        found: Its curves.
        remarks: Remarks in Markdown.
    """
    about = raw["machine"]
    parts = [
        "# What grows",
        "Written by `make bench ARGS='growth --write-results'` from the last measurement and `growth/remarks.md`: do "
        "not edit.",
        f"{about['date']}: {about['cpu']}, {about['cores']} cores, {about['file_system']}, Python {about['python']}, "
        f"torch {about['torch']}. Processor time, without waiting for a disk, unless a curve says otherwise; best of "
        f"{raw['repeat']}, each in a process of its own, one thread. Per doubling: the factor of the time for twice "
        f"the size, between the last two sizes; 1 is constant, 2 linear, 4 quadratic. The goal is for the largest "
        f"size. Peak: memory of the whole process.",
        tables.markdown(HEADER, [cells(item) for item in found]),
        f"![The same as a plot]({PICTURE.name})",
        *([remarks] if remarks else []),
        "## To repeat it",
        "```bash\nmake bench ARGS=growth\nmake bench ARGS='growth --write-results'\n```",
    ]
    return "\n\n".join(parts) + "\n"
