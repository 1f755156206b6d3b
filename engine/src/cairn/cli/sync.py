"""`cairn sync RUN`: upload what is missing in W&B, then check that W&B has the whole run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cairn.cli.arguments import add_run, duration_s, find_run, load_dotenv, require
from cairn.cli.output import print_json
from cairn.run import terminal
from cairn.run.claimed import claimed
from cairn.units import format_bytes

if TYPE_CHECKING:
    from cairn.wandb.sync import Synced

HELP = "upload what W&B lacks of a run: metrics and checkpoints; exit code 1 if something is still missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_run(parser)
    parser.add_argument("--limit", default="1h", metavar="TIME", help="maximum time to wait for uploads (default 1h)")


def run(arguments: argparse.Namespace) -> int:
    """Upload, print what W&B has afterwards, and return 1 if something is missing."""
    synced = collect(arguments.named, duration_s(arguments.limit, "--limit"))
    if arguments.json:
        print_json(as_json(synced))
    else:
        show(synced, terminal.console())
    return int(not synced.has_history or bool(_missing(synced)))


def collect(named: str, limit_s: float) -> Synced:
    """Upload what W&B lacks of a run.

    Args:
        named: A run directory, its checkpoint directory, or `latest`.
        limit_s: Maximum time to wait for uploads, in seconds.

    Returns:
        State of the run in W&B afterwards.

    Raises:
        ConfigError: W&B's client is not installed.
        ResumeError: The run was never logged to W&B, or W&B cannot be reached.
    """
    directory, run = find_run(named, "sync needs the W&B settings of the run")
    require("wandb", "sync", "wandb")
    from cairn.wandb.sync import sync

    load_dotenv()
    with claimed(run, directory.path):
        return sync(run.path, limit_s)


def _missing(synced: Synced) -> list[str]:
    return [saved.name for saved, version in synced.states if not version]


def as_json(synced: Synced) -> dict[str, Any]:
    """Return the state of W&B as JSON values."""
    return {
        "run": synced.run,
        "rows_sent": synced.num_rows,
        "history": synced.has_history,
        "versions": {saved.name: version or None for saved, version in synced.states},
        "missing": _missing(synced),
    }


def show(synced: Synced, console: Console) -> None:
    """Print the state of W&B, a row per checkpoint."""
    lines = Table.grid(padding=(0, 2))
    for saved, version in synced.states:
        state = "[green]committed[/]" if version else "[bold red]missing[/]"
        lines.add_row(state, saved.name, version, format_bytes(saved.num_bytes))
    console.print(lines)
    num_there = len(synced.states) - len(_missing(synced))
    history = f"{synced.num_rows} rows of its history were sent"
    if not synced.has_history:
        history = "its history was not sent completely: run the same command again"
    terminal.line(f"W&B has {num_there} of {len(synced.states)} checkpoints of {synced.run}; {history}.")
