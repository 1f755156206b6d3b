"""`cairn report SWEEP`: what saving cost at each interval, and which interval to choose."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cairn.cli.arguments import LOGS, duration_s, refuse_address, require
from cairn.cli.output import print_json, print_table
from cairn.errors import ConfigError
from cairn.runs import summary, terminal
from cairn.study import choice, page, plots, reading, words
from cairn.study.choice import Study

HELP = "show what saving costs at each interval of a sweep, or in one run, and which to choose: table, plots, page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "directory of a sweep or of a run, or latest for the newest one below logs/"
    parser.add_argument("named", metavar="SWEEP", help=text)
    parser.add_argument("--out", metavar="DIR", help="directory for plots and page (default SWEEP/report)")
    parser.add_argument("--mtbf", metavar="TIME", help="mean time between failures, such as 8h (default: measured)")


def run(arguments: argparse.Namespace) -> int:
    """Print tables and conclusions, write a page with plots, and return 0. With `--json`, print only the numbers."""
    study = collect(arguments.named, arguments.mtbf)
    if arguments.json:
        print_json(words.figures(study))
        return 0
    require("matplotlib", "report", "report")
    sweep = study.sweep.path
    written = _draw(study, Path(arguments.out).absolute() if arguments.out else sweep / "report")
    console = terminal.console()
    console.print(Text(summary.relative(sweep), style="bold"), soft_wrap=True)
    for text in words.terminal(study):
        if isinstance(text, Table):
            print_table(console, text)
        else:
            console.print(text, highlight=False)
    console.print(Text(f"\npage: {summary.relative(written)}"), soft_wrap=True)
    return 0


def collect(named: str, mtbf: str | None) -> Study:
    """Read the runs that a user names and compare their intervals.

    Args:
        named: Directory of a sweep or of a run, or `latest`.
        mtbf: Mean time between failures as the user wrote it; None to measure it.

    Raises:
        MissingFileError: There are no runs.
        ConfigError: `mtbf` is not a duration, or is 0; or an address was named.
    """
    refuse_address(named, "report")
    sweep = reading.read(reading.find(named, LOGS))
    mtbf_s = duration_s(mtbf, "--mtbf") if mtbf else None
    if mtbf_s == 0:
        raise ConfigError("--mtbf=0: the mean time between failures must be more than 0.")
    return choice.study(sweep, mtbf_s)


def _draw(study: Study, folder: Path) -> Path:
    """Write the plots and the page; return the path of the page."""
    try:
        pictures = plots.pictures(study)
        plots.write(pictures, folder)
        return page.write(study, pictures, folder)
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {folder}: {error.strerror}. Choose another directory: --out DIR."
        ) from error
