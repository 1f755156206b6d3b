"""Output of the commands: tables in one style, and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cairn.run.terminal import printable
from cairn.units import format_duration

LONG_ROWS = 500
"""Rows from which on a table is printed as plain text: rich takes milliseconds for each."""
STATUS_STYLES = {
    **dict.fromkeys(("finished", "tested"), "green"),
    "running": "cyan",
    **dict.fromkeys(("failed", "dead", "hung"), "bold red"),
}
"""Style of the status of a run; of any other one it is yellow."""


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))


def finite(value: Any) -> Any:
    """Return a value that is valid JSON: NaN and infinity are texts."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def new_table() -> Table:
    """Return an empty table in the style of all commands."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def age(created: str) -> str:
    """Return the time since `created` (ISO 8601), with two digits; empty if `created` is not such a time."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # not a time, or one without a time zone
        return ""
    return format_duration(max(0, round(seconds)), digits=2)


def print_table(console: Console, table: Table) -> None:
    """Print a table. One with many rows is printed as plain text, which takes a hundredth of the time.

    Args:
        console: Where to print.
        table: The table; its cells are strings, with markup.
    """
    if table.row_count <= LONG_ROWS:
        console.print(table)
        return
    if table.title:
        print(_plain(str(table.title)), file=console.file)
    columns = [[_plain(str(text)) for text in (column.header, *column.cells)] for column in table.columns]
    rights = [column.justify == "right" for column in table.columns]
    widths = [max(map(cell_len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        cells = []
        for text, width, right in zip(row, widths, rights, strict=True):
            padding = " " * (width - cell_len(text))
            cells.append(padding + text if right else text + padding)
        print("  ".join(cells).rstrip(), file=console.file)


def _plain(text: str) -> str:
    """Return a cell without its markup, and without what would control the terminal."""
    return printable(Text.from_markup(text).plain if "[" in text else text)
