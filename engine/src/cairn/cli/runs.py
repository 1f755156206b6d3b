"""`cairn runs [DIR]`: all runs below a directory."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cairn.cli import runs_table
from cairn.cli.arguments import LOGS, refuse_address
from cairn.cli.output import finite, print_json
from cairn.errors import ConfigError
from cairn.overview import columns, table
from cairn.overview.table import Query, RunTable
from cairn.run import terminal

HELP = "list all runs below a directory: status, progress, scores, time; filter and sort them by any key or metric"
_EPILOG = """\
KEY is a column ({columns}), a key of the configuration such as model.optimizer.lr, or a metric such as val/loss.
config.KEY and metric.KEY mean a key or a metric that has the name of a column."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.epilog = _EPILOG.format(columns=", ".join(columns.COLUMNS))
    text = "directory with runs, or that of a sweep (default: logs)"
    parser.add_argument("directory", metavar="DIR", nargs="?", default=str(LOGS), help=text)
    text = "only runs with this value, where * stands for any text; also !=, <, <=, >, >=; may be repeated"
    parser.add_argument("--filter", metavar="KEY=VALUE", action="append", default=[], dest="filters", help=text)
    parser.add_argument("--sort", metavar="KEY", default="", help="smallest value first (default: newest first)")
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    text = "show these columns, separated by commas; +KEY adds to the usual ones, and * stands for any text: +model.*"
    parser.add_argument("--columns", metavar="KEYS", action="append", default=[], help=text)
    parser.add_argument("--limit", metavar="N", type=int, help="show only the first N runs")
    parser.add_argument("--csv", action="store_true", help="print CSV, for spreadsheets")


def run(arguments: argparse.Namespace) -> int:
    """Print a row per run and return 0."""
    refuse_address(arguments.directory, "runs")
    if arguments.json and arguments.csv:
        raise ConfigError("--json and --csv exclude each other: give one of them.")
    query = Query(table.parsed(arguments.filters), arguments.sort, arguments.reverse, arguments.limit)
    names = [name.strip() for text in arguments.columns for name in text.split(",") if name.strip()]
    is_for_programs = arguments.json or arguments.csv
    default = columns.DEFAULT if is_for_programs else columns.TABLE
    found = table.read(Path(arguments.directory), query, names, default)
    if arguments.json:
        print_json([{name: finite(value) for name, value in row.items()} for row in found.rows()])
    elif arguments.csv:
        _print_csv(found)
    else:
        runs_table.show(found, terminal.console(), is_chosen=bool(names))
        terminal.line(_summary(found, arguments.filters))
    for sentence in found.trouble:
        terminal.error(f"Warning: {sentence}")
    return 0


def _print_csv(found: RunTable) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(terminal.printable, found.columns))
    for row in found.rows():
        writer.writerow([terminal.printable(_csv(value)) for value in row.values()])


def _csv(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _summary(found: RunTable, filters: Sequence[str]) -> str:
    """Return how many runs there are, and how many of them are not shown."""
    if not found.num_all:
        return f"There is no run below {found.folder}. Train one: python train.py"
    counts = Counter(run.status for run in found.runs)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    shown = f"{len(found.runs)} run{'s' * (len(found.runs) != 1)}{f': {states}' if states else ''}."
    hidden = found.num_all - len(found.runs)
    why = " and ".join([*(["--filter"] if filters else []), *(["--limit"] if len(found.runs) == found.limit else [])])
    return f"{shown} {hidden} more, left out by {why}." if hidden else shown
