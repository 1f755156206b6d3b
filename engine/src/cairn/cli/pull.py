"""`cairn pull ADDRESS`: copy a run from an object store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cairn.cli.arguments import LOGS, load_dotenv, ranking
from cairn.cli.output import print_json
from cairn.policy.keep import Latest
from cairn.remote.fetch import Target
from cairn.remote.pull import Pulled, pull
from cairn.runs import mirrored_run, summary, terminal
from cairn.runs.claimed import claimed
from cairn.units import format_bytes

HELP = "copy a run from an object store: its newest and its best checkpoint, configuration, metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("address", metavar="ADDRESS", help="address of a run, such as s3://bucket/prefix/RUN")
    parser.add_argument("--to", metavar="DIR", help="run directory (default: where the run was, below logs/)")
    parser.add_argument("--all", action="store_true", help="copy all checkpoints")


def run(arguments: argparse.Namespace) -> int:
    """Download, print what was copied, and return 1 if a checkpoint could not be."""
    run, pulled = collect(arguments.address, arguments.to, arguments.all)
    if arguments.json:
        print_json(as_json(run, pulled))
    else:
        show(run, pulled)
    return int(bool(pulled.skipped))


def collect(text: str, to: str | None, everything: bool) -> tuple[Path, Pulled]:
    """Copy a run from an object store.

    Args:
        text: Address of the run.
        to: The run directory; None: where the run was, below logs/.
        everything: Copy all checkpoints.

    Returns:
        The run directory, and what was copied.

    Raises:
        CairnError: There is no such run, another one is in the directory, or the store cannot be used.
    """
    load_dotenv()
    run, found = mirrored_run.bring(text, LOGS.absolute(), None if to is None else Path(to).absolute())
    if run.record() is None:  # a mirror of the library: only checkpoints
        return run.path, pull(found, Target(run.path, None, ([Latest(-1 if everything else 1)], None)))
    _, mode = ranking(run)
    rules = [Latest(-1 if everything else 1)]
    with claimed(run, run.checkpoints()):
        return run.path, pull(found, Target(run.checkpoints(), run.path, (rules, mode)))


def as_json(run: Path, pulled: Pulled) -> dict[str, Any]:
    """Return what was copied as JSON values."""
    return {
        "run": str(run),
        "downloaded": [item.name for item in pulled.downloaded],
        "present": [item.name for item in pulled.present],
        "skipped": [{"name": name, "why": why} for name, why in pulled.skipped],
    }


def show(run: Path, pulled: Pulled) -> None:
    """Print what was copied, and how the run is resumed."""
    for name, why in pulled.skipped:
        terminal.line(f"not downloaded: {name}, {why}")
    size = format_bytes(sum(item.num_bytes for item in pulled.downloaded))
    there = f"{len(pulled.downloaded)} downloaded ({size}), {len(pulled.present)} were there already"
    terminal.line(f"{summary.relative(run)}: {there}.")
    if (run / "run.json").is_file():
        terminal.line(f"resume: {summary.command(run)}")
