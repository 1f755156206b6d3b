"""What a run prints: its configuration at the start, and at the end its checkpoints, costs and how to resume."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cairn.run import time_table
from cairn.run.goodput import TimeSpent
from cairn.store import names
from cairn.types import Saved
from cairn.units import format_bytes, format_duration

_FIRST = ("task_name", "seed", "data", "model", "trainer", "checkpoint", "callbacks", "logger")

_MOST_ROWS = 20
"""Checkpoints that the end of a run shows."""
_SHORT_S = 600.0
"""Training time from which the cost of saving is shown as a share of it, in seconds."""
_AROUND_A_COLUMN = 2
"""Spaces between two columns of a table."""


@dataclass(frozen=True)
class RunReport:
    """How a run ended, and what is kept of it."""

    run: Path
    checkpoints: Path
    status: str
    saved: Sequence[Saved] = ()
    best: str = ""
    """File name of the best checkpoint."""
    monitor: str | None = None
    test: Mapping[str, float] | None = None
    num_saves: int = 0
    num_failed: int = 0
    """Failed saves in this process."""
    num_skipped: int = 0
    """Interval saves that were dropped because both buffers were busy."""
    stall_s: float = 0.0
    """Total time that training stood still for saves, in seconds."""
    overhead: float = 0.0
    """Cost of saving, as a share of the time that the run would have taken without it."""
    at_risk_s: float = 0.0
    """Work that a failure would have lost, on average, in seconds."""
    training_s: float | None = None
    """Training time of the run, in seconds, including what saving has cost; None if it is not known."""
    spent: TimeSpent | None = None
    """What the time of the run was spent on, over all attempts; None if they are not recorded."""
    mirror: str = ""
    """Address of the copy in an object store; empty if there is none."""
    more: str = ""
    """Override without which a resume would end at once."""


class _Dumper(yaml.SafeDumper):
    """Shows a value that YAML does not know, such as a path, as text."""


_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))


def show_config(config: Mapping[str, Any], console: Console) -> None:
    """Print the resolved configuration as a tree with a branch per group."""
    tree = Tree("config", guide_style="dim")
    for name in sorted(config, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)):
        value = config[name]
        if isinstance(value, dict) and value:
            text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True).rstrip()
            tree.add(str(name)).add(Syntax(text, "yaml", background_color="default"))
        else:
            tree.add(Text(f"{name}: {value}"))
    console.print(tree)


def show_report(report: RunReport, console: Console) -> None:
    """Print the kept checkpoints, the scores, what saving cost, and the command that resumes the run."""
    if report.saved:
        console.print(checkpoint_table(report, console.width))
        if (num_hidden := len(report.saved) - len(_shown(report))) > 0:
            console.print(f"{num_hidden} more: cairn ls {shlex.quote(relative(report.run))}", soft_wrap=True)
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(report):
        facts.add_row(f"[dim]{name}", escape(value))
    console.print(facts)
    if report.saved:
        # On a line of its own, however long, so that it can be copied.
        console.print(Text("resume   " + command(report.run, *filter(None, [report.more]))), soft_wrap=True)


def checkpoint_table(report: RunReport, width: int) -> Table:
    """Return a table of the newest kept checkpoints and the best, oldest first, for a terminal of this width."""
    title = escape(relative(report.checkpoints))
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    rows = []
    for item in _shown(report):
        score = "" if item.score is None else f"{item.score:.4g}"
        step, why = str(item.position.step), ", ".join(item.reasons)
        rows.append([item.name, step, why, score, format_bytes(item.num_bytes), _links(item, report)])
    headers = ["file", "step", "saved because", report.monitor or "score", "size", "link"]
    fill(table, headers, rows, width, wrapped=headers[2], cut=headers[3:4], right=headers[1:2] + headers[3:5])
    return table


def fill(
    table: Table,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    wrapped: str,
    cut: Sequence[str],
    right: Sequence[str],
) -> None:
    """Fill a table so that a narrow terminal never costs a cell: long headers are cut, and one column is wrapped.

    Args:
        table: The table, without columns.
        headers: Name of each column.
        rows: Cells, with markup.
        width: Number of characters in a line of the terminal.
        wrapped: Header of the column that is wrapped between words.
        cut: Headers that may be cut.
        right: Headers of the columns whose cells are aligned on the right.
    """
    least = {}
    for number, header in enumerate(headers):
        cells = [_plain(row[number]) for row in rows] + [header] * (header not in cut)
        words = [word for cell in cells for word in (cell.split() if header == wrapped else [cell])]
        least[header] = max(map(cell_len, words), default=0)
    room = width - _AROUND_A_COLUMN * len(headers) - sum(least[header] for header in headers if header not in cut)
    for header in headers:
        justify: Literal["left", "right"] = "right" if header in right else "left"
        most = max(least[header], room // len(cut)) if header in cut else cell_len(header)
        shown = header if cell_len(header) <= most else f"{header[: max(0, most - 1)]}…"
        table.add_column(escape(shown), justify=justify, no_wrap=header != wrapped, min_width=least[header])
    for row in rows:
        table.add_row(*row)


def _shown(report: RunReport) -> list[Saved]:
    newest = report.saved[-_MOST_ROWS:]
    return [*(item for item in report.saved[:-_MOST_ROWS] if item.name == report.best), *newest]


def _plain(cell: str) -> str:
    return Text.from_markup(cell).plain if "[" in cell else cell


def _links(item: Saved, report: RunReport) -> str:
    links = {names.BEST: report.best, names.LAST: report.saved[-1].name}
    return " ".join(link.removesuffix(".ckpt") for link, name in links.items() if name == item.name)


_WORDS = ("latest", "last", "auto", "null")
"""Values of `resume=` that are not directories."""
_SCRIPT = "train.py"


@dataclass(frozen=True)
class _Shell:
    """The shell that a command was typed into. The process itself may have moved: `hydra.job.chdir=true`."""

    directory: Path | None = None
    script: Path | None = None


_shell = _Shell()


@contextmanager
def typed_in(directory: Path, script: Path) -> Iterator[None]:
    """Context in which paths and commands are printed for a shell in this directory.

    Args:
        directory: Working directory of the shell.
        script: The project's train.py, absolute or as it was typed in that shell.
    """
    global _shell
    before, path = _shell, directory / script
    _shell = _Shell(directory, path if path.is_file() else None)
    try:
        yield
    finally:
        _shell = before


def shell_directory() -> Path:
    """Return the directory in which the user types commands."""
    return _shell.directory or Path.cwd()


def relative(path: Path) -> str:
    """Return the path as a user would type it in the current directory."""
    try:
        return str(path.relative_to(shell_directory()))
    except ValueError:
        return str(path)


def command(run: Path, *overrides: str, named: str = "") -> str:
    """Return the command that resumes a run.

    Args:
        run: The run directory.
        *overrides: What follows.
        named: How the run is named; empty: by its directory.
    """
    path = named or relative(run)
    name = f"./{path}" if path in _WORDS else path
    return " ".join(["python", shlex.quote(_script(run)), shlex.quote(f"resume={name}"), *overrides])


def new_run(folder: Path, *overrides: str) -> str:
    """Return the command that trains a new run.

    Args:
        folder: A directory of the project, such as another run.
        *overrides: Its overrides.
    """
    return " ".join(["python", shlex.quote(_script(folder)), *map(shlex.quote, overrides)])


def _script(run: Path) -> str:
    """Return the project's train.py as it is typed in the shell's directory."""
    if _shell.script is not None:
        return relative(_shell.script)
    folders = [shell_directory(), *run.absolute().parents]
    return next((relative(folder / _SCRIPT) for folder in folders if (folder / _SCRIPT).is_file()), _SCRIPT)


def _cost(report: RunReport) -> str:
    """Return what saving has cost, in words: of a short run in seconds."""
    paused = f"training paused for {format_duration(report.stall_s)}"
    if report.training_s is not None and report.training_s < _SHORT_S:
        # The first saves are the slow ones, and the saves at the end and at a stop come however short a run is: their
        # share of a few minutes is not that of a longer run.
        return f"{paused} in {format_duration(report.training_s)}"
    return f"overhead {100 * report.overhead:.2g} %, {paused}"


def _facts(report: RunReport) -> list[tuple[str, str]]:
    facts = [("run", f"{relative(report.run)} ({report.status})")]
    if report.mirror:
        facts.append(("mirror", report.mirror))
    best = next((item for item in report.saved if item.name == report.best), None)
    if best is not None:
        facts.append(
            ("best", f"{report.monitor} {best.score:.6g} at epoch {best.position.epoch}, batch {best.position.batch}")
        )
    if report.test:
        facts.append(("test", ", ".join(f"{name} {value:.4g}" for name, value in report.test.items())))
    if report.num_saves:
        saves = "1 save" if report.num_saves == 1 else f"{report.num_saves} saves"
        less = {"failed": report.num_failed, "skipped": report.num_skipped}
        but = ", ".join(f"{count} {what}" for what, count in less.items() if count)
        facts.append(("saving", f"{saves}{f' ({but})' if but else ''}, {_cost(report)}"))
        facts.append(("at risk", f"{format_duration(report.at_risk_s)} of work, on average"))
    if report.spent is not None and report.spent.num_starts > 1:
        facts.append(("goodput", time_table.headline(report.spent)))
        facts += [("", f"{value} {name}") for name, value in time_table.parts(report.spent)]
        facts += [("", sentence) for sentence in time_table.caveats(report.spent)]
    elif report.spent is not None:  # an undisturbed run has little to tell
        named = ", ".join(f"{value} {name}" for name, value in time_table.parts(report.spent))
        facts.append(("time", f"{format_duration(report.spent.wall_s, digits=2)}: {named}"))
    return facts
