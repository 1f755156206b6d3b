"""`cairn report SWEEP`: how a search went; or what saving cost at each interval, and which interval to choose."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cairn.cli.arguments import LOGS, duration_s, refuse_address, require
from cairn.cli.output import print_json, print_table
from cairn.errors import ConfigError
from cairn.run import summary, terminal
from cairn.study import choice, html, page, picture, plots, reading, words
from cairn.study.choice import Study
from cairn.study.picture import Picture
from cairn.study.search import page as search_page
from cairn.study.search import plots as search_plots
from cairn.study.search import reading as search_reading
from cairn.study.search import record as search_record
from cairn.study.search import words as search_words

HELP = (
    "show how a search went: trials, rungs, curves, parameters; for other sweeps and runs, what saving costs at each "
    "interval, and which to choose: table, plots, page"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "directory of a sweep or of a run, or latest for the newest one below logs/"
    parser.add_argument("named", metavar="SWEEP", help=text)
    parser.add_argument("--out", metavar="DIR", help="directory for plots and page (default SWEEP/report)")
    parser.add_argument("--saving", action="store_true", help="also for a search, show what saving costs")
    parser.add_argument("--mtbf", metavar="TIME", help="mean time between failures, such as 8h (default: measured)")


def run(arguments: argparse.Namespace) -> int:
    """Print tables and conclusions, write a page with plots, and return 0. With `--json`, print only the numbers."""
    refuse_address(arguments.named, "report")
    path = reading.find(arguments.named, LOGS)
    if search_record.is_search(path) and not arguments.saving:
        if arguments.mtbf:
            raise ConfigError("--mtbf is about saving, and this is a search: add --saving to see what saving costs.")
        return _search(arguments, path)
    return _saving(arguments, path)


def _search(arguments: argparse.Namespace, path: Path) -> int:
    study = search_reading.read(path)
    if arguments.json:
        print_json(search_words.figures(study))
        return 0
    require("matplotlib", "report", "report")
    pictures = search_plots.pictures(study)
    written = _written(search_page.page(study, pictures), pictures, _folder(arguments, path))
    _print(path, search_words.terminal(study), written)
    return 0


def _saving(arguments: argparse.Namespace, path: Path) -> int:
    study = _compared(path, arguments.mtbf)
    if arguments.json:
        print_json(words.figures(study))
        return 0
    require("matplotlib", "report", "report")
    pictures = plots.pictures(study)
    written = _written(page.page(study, pictures), pictures, _folder(arguments, study.sweep.path))
    _print(study.sweep.path, words.terminal(study), written)
    return 0


def _compared(path: Path, mtbf: str | None) -> Study:
    """Read the runs of a directory and compare their intervals.

    Args:
        path: Directory of a sweep or of a run.
        mtbf: Mean time between failures as the user wrote it; None to measure it.

    Raises:
        MissingFileError: There are no runs.
        ConfigError: `mtbf` is not a duration, or is 0.
    """
    sweep = reading.read(path)
    mtbf_s = duration_s(mtbf, "--mtbf") if mtbf else None
    if mtbf_s == 0:
        raise ConfigError("--mtbf=0: the mean time between failures must be more than 0.")
    return choice.study(sweep, mtbf_s)


def _folder(arguments: argparse.Namespace, sweep: Path) -> Path:
    return Path(arguments.out).absolute() if arguments.out else sweep / "report"


def _written(text: str, pictures: Sequence[Picture], folder: Path) -> Path:
    """Write the plots and the page; return the path of the page."""
    try:
        picture.write(pictures, folder)
        return html.write(text, folder)
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {folder}: {error.strerror}. Choose another directory: --out DIR."
        ) from error


def _print(sweep: Path, parts: Iterable[Table | Text], written: Path) -> None:
    console = terminal.console()
    console.print(Text(summary.relative(sweep), style="bold"), soft_wrap=True)
    for text in parts:
        if isinstance(text, Table):
            print_table(console, text)
        else:
            console.print(text, highlight=False, soft_wrap=bool(text.no_wrap))
    console.print(Text(f"\npage: {summary.relative(written)}"), soft_wrap=True)
