"""`cairn diff RUN RUN`: what differs between two runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cairn.cli.arguments import find_run
from cairn.cli.output import finite, new_table, print_json
from cairn.overview import difference
from cairn.overview.columns import COLUMNS
from cairn.overview.difference import Difference, Pair
from cairn.overview.facts import RunFacts
from cairn.overview.run_config import ABSENT
from cairn.run import summary, terminal
from cairn.units import format_duration

HELP = "show what differs between two runs: configuration, commit of the code, versions, results"
_SIDES = ("first", "second")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    for side in _SIDES:
        text = "run directory, checkpoint directory, or latest for the newest run below logs/"
        parser.add_argument(side, metavar="RUN", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print the differences and return 0."""
    why = "diff reads the files of two runs"
    runs = [RunFacts(find_run(getattr(arguments, side), why)[1].path) for side in _SIDES]
    found = difference.between(*runs)
    if arguments.json:
        print_json(as_json(found, runs))
    else:
        show(found, runs, terminal.console())
    return 0


def as_json(found: Difference, runs: Sequence[RunFacts]) -> dict[str, Any]:
    """Return the differences as JSON values; a side without a value lacks its key."""
    return {
        "runs": [str(item.path) for item in runs],
        "config": _pairs(found.config),
        "code": dict(zip(_SIDES, found.code, strict=True)),
        "versions": _pairs(found.versions),
        "result": _pairs(found.result),
    }


def _pairs(found: Mapping[str, Pair]) -> dict[str, dict[str, Any]]:
    sides = {name: zip(_SIDES, pair, strict=True) for name, pair in found.items()}
    return {name: {side: finite(value) for side, value in pair if value is not ABSENT} for name, pair in sides.items()}


def show(found: Difference, runs: Sequence[RunFacts], console: Console) -> None:
    """Print a table for each kind of difference."""
    for mark, item in zip("AB", runs, strict=True):
        console.print(f"[bold]{mark}[/] {escape(summary.relative(item.path))}", highlight=False, soft_wrap=True)
    if found.is_empty:
        console.print("Nothing differs in configuration, versions and results.", highlight=False)
    if found.config:
        console.print(_table("configuration", found.config), highlight=False)
    if found.versions:
        console.print(_table("versions", found.versions), highlight=False)
    if found.result:
        console.print(_table("result", found.result, with_change=True), highlight=False)
    console.print(escape(code_words(*found.code)), highlight=False, soft_wrap=True)


def code_words(first: str, second: str) -> str:
    """Return a sentence about the code of the two runs.

    Args:
        first: Commit of the first run, with a + if files had changed since; empty if it is not known.
        second: The same of the second run.
    """
    if not first or not second:
        sides = " and ".join(mark for mark, commit in zip("AB", (first, second), strict=True) if not commit)
        return f"Code: not known of {sides}: neither a start nor a checkpoint names a commit."
    one, other = first.rstrip("+"), second.rstrip("+")
    edited = [mark for mark, commit in zip("AB", (first, second), strict=True) if commit.endswith("+")]
    changed = f", with uncommitted changes in {' and '.join(edited)}, which are not recorded" if edited else ""
    if one == other:
        return f"Code: the same commit {one[:12]}{changed}."
    return f"Code: {one[:12]} and {other[:12]}{changed}. To see it: git diff {one[:12]} {other[:12]}"


def _table(title: str, pairs: Mapping[str, Pair], with_change: bool = False) -> Table:
    table = new_table()
    table.add_column(title, no_wrap=False, overflow="fold")
    for mark in "AB":
        table.add_column(mark, justify="right", overflow="fold")
    if with_change:
        table.add_column("B - A", justify="right", no_wrap=True)
    for name, pair in pairs.items():
        kind = COLUMNS[name].kind if name in COLUMNS else "number" if with_change else "text"
        header = (COLUMNS[name].header if with_change and name in COLUMNS else "") or name
        cells = [escape(header), *(_cell(value, kind) for value in pair)]
        table.add_row(*cells, *([_change(*pair, kind)] if with_change else []))
    return table


def _cell(value: Any, kind: str) -> str:
    if value is ABSENT:
        return "[dim]-[/]"
    if kind == "share" and value is not None:
        return f"{100 * value:.0f} %"
    if kind == "seconds" and value is not None:
        return format_duration(value, digits=2)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return escape(f"{value:.6g}" if kind == "number" and isinstance(value, float) else str(value))


def _change(first: Any, second: Any, kind: str) -> str:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (first, second)):
        return ""
    change = second - first
    if kind == "share":
        return f"{round(100 * change):+d} %"
    sign = "-" if change < 0 else "+"
    return sign + format_duration(abs(change), digits=2) if kind == "seconds" else f"{change:+.4g}"
