"""The table of `cairn runs` in a terminal: which columns fit, and how a value is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from cairn.cli.output import LONG_ROWS, STATUS_STYLES, new_table, print_table
from cairn.cli.run_names import folded, grouped
from cairn.overview.columns import COLUMNS, value_of
from cairn.overview.facts import RunFacts
from cairn.overview.run_config import ABSENT
from cairn.overview.table import RunTable
from cairn.run.terminal import printable
from cairn.units import format_duration

_BETWEEN = 2
"""Spaces between two columns."""
_LEAST = 32
"""Least width of the column `run`, if its cells are longer."""
_LEFT_OUT = ("tags", "goodput", "task", "test", "duration_s")
"""Columns that a narrow terminal does without, the first one first."""
_NUMBERS = ("number", "share", "seconds")


def show(found: RunTable, console: Console, is_chosen: bool) -> None:
    """Print the table, and what it does not say by itself.

    Args:
        found: The runs.
        console: Where to print.
        is_chosen: Whether the user has named columns: then all of them are shown.
    """
    if not found.runs:
        return
    names = [name for name in found.columns if is_chosen or name != "task" or not _is_in_paths(found.runs)]
    cells = {name: [_cell(run, name, found) for run in found.runs] for name in names}
    hidden = [] if is_chosen else _hidden(cells, console.width)
    shown = {name: texts for name, texts in cells.items() if name not in hidden}
    _print(shown, found, console, wraps=is_chosen)
    if with_values := [name for name in found.columns if name in hidden and any(cells[name])]:
        headers = ", ".join(map(_header, with_values))
        console.print(f"[dim]A wider terminal also shows {headers}; --columns chooses.[/]", highlight=False)
    for note in _notes(found, shown):
        console.print(f"[dim]{escape(note)}[/]", highlight=False)
    for run in found.runs:
        if run.trouble:
            text = f"[yellow]not readable[/]: {escape(_name(run, found))}, {escape(run.trouble)}"
            console.print(text, highlight=False, soft_wrap=True)


def _print(shown: Mapping[str, Sequence[str]], found: RunTable, console: Console, wraps: bool) -> None:
    table = new_table()
    table.title, table.title_justify, table.title_style = escape(str(found.folder)), "left", "bold"
    others = sum(_width(name, texts) + _BETWEEN for name, texts in shown.items() if name != "run")
    is_short = len(found.runs) <= LONG_ROWS  # a longer one is printed line by line
    for name in shown:
        is_number = (name in COLUMNS and COLUMNS[name].kind in _NUMBERS) or _are_numbers(found.runs, name)
        # Columns that the user has chosen are all shown: a cell takes several lines if it has to.
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(escape(_header(name)), justify=justify, no_wrap=not wraps, overflow="fold")
    labels = grouped(shown["run"]) if "run" in shown and is_short else []
    for number, run in enumerate(found.runs):
        row = {name: texts[number] for name, texts in shown.items()}
        if labels:
            room = max(_LEAST, console.width - others)
            for line in labels[number].above:
                table.add_row(*(escape(folded(line, room)) if name == "run" else "" for name in shown), style="dim")
            row["run"] = folded(labels[number].text, room)
        styled = {name: escape(text) for name, text in row.items()}
        if "status" in row:
            styled["status"] = f"[{STATUS_STYLES.get(run.status, 'yellow')}]{styled['status']}[/]"
        table.add_row(*styled.values())
    print_table(console, table)


def _hidden(cells: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Return the columns to leave out, so that the others fit."""
    hidden: list[str] = []
    candidates = [name for name in _LEFT_OUT if name in cells]
    # A column without any value goes first: it costs nothing.
    empty = [name for name in candidates if not any(cells[name])]
    for name in [*empty, *(name for name in candidates if name not in empty)]:
        widths = [
            min(_width(key, texts), _LEAST) if key == "run" else _width(key, texts)
            for key, texts in cells.items()
            if key not in hidden
        ]
        if sum(widths) + _BETWEEN * (len(widths) - 1) <= width:
            break
        hidden.append(name)
    return hidden


def _cell(run: RunFacts, name: str, found: RunTable) -> str:
    if name == "run":
        return printable(_name(run, found))
    value = value_of(run, name)
    if value is ABSENT or (value is None and name in COLUMNS):
        return ""
    # A cell is one line, whatever a configuration holds.
    return " ".join(printable(_text(value, COLUMNS[name].kind if name in COLUMNS else "text")).split())


def _name(run: RunFacts, found: RunTable) -> str:
    """Return the run directory relative to that of the table."""
    name = run.path.relative_to(found.folder.absolute()).as_posix()
    return run.path.name if name == "." else name


def _text(value: Any, kind: str) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item, "text") for item in value)
    if kind == "share":
        return f"{100 * value:.0f} %"
    if kind == "seconds":
        return format_duration(value, digits=2)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if kind == "number" else f"{value:g}"
    return str(value)


def _header(name: str) -> str:
    return (COLUMNS[name].header if name in COLUMNS else "") or printable(name)


def _width(name: str, texts: Sequence[str]) -> int:
    return max(map(cell_len, [_header(name), *texts]))


def _are_numbers(runs: Sequence[RunFacts], name: str) -> bool:
    values = [value_of(run, name) for run in runs]
    known = [value for value in values if value is not ABSENT and value is not None]
    return bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def _is_in_paths(runs: Sequence[RunFacts]) -> bool:
    """Return whether the path of each run names its task, as `logs/TASK/runs/TIME` does."""
    return all(run.record is None or run.record.task_name in run.path.parts for run in runs)


def _notes(found: RunTable, shown: Mapping[str, Sequence[str]]) -> list[str]:
    """Return which metrics the columns `best` and `test` show."""
    about = {"best": ("monitor", "of the best checkpoint"), "test": ("test_metric", "of the last test")}
    notes = []
    for name, (metric, what) in about.items():
        if name in shown and any(shown[name]):
            with_value = [run for run, text in zip(found.runs, shown[name], strict=True) if text]
            metrics = dict.fromkeys(printable(str(value_of(run, metric))) for run in with_value)
            more = "" if len(metrics) == 1 else f" (--columns +{metric} shows which)"
            notes.append(f"{name}: {', '.join(metrics)} {what}{more}")
    return notes
