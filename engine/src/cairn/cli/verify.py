"""`cairn verify RUN_OR_FILE`: compare every byte of the checkpoints with their checksums."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cairn.cli.arguments import find_checkpoints, load_dotenv
from cairn.cli.output import print_json
from cairn.remote import checked
from cairn.remote.address import is_address
from cairn.run import terminal
from cairn.store import audit, shards
from cairn.store.audit import Finding

HELP = "compare every byte with its checksum; exit code 1 if a checkpoint is corrupt, or of a later version of Cairn"
_SHOWN = {
    "whole": "[green]intact[/]",
    "unfinished": "[yellow]unfinished[/]",
    "newer": "[yellow]not verified[/]",
    "broken": "[bold red]corrupt[/]",
}
"""States in a table. In JSON they keep their names, for programs that read them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = (
        "run directory, checkpoint directory, checkpoint, an address of one, or latest for the newest run below logs/"
    )
    parser.add_argument("named", metavar="RUN_OR_FILE", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per file and return 1 if one of them is corrupt, or cannot be read by this version."""
    findings = collect(arguments.named)
    if arguments.json:
        print_json(as_json(findings))
    else:
        show(findings, terminal.console())
    return int(any(item.state in ("broken", "newer") for item in findings))


def collect(named: str) -> list[Finding]:
    """Read every byte of the checkpoint, or of the directory of checkpoints, that a user names."""
    if is_address(named):
        load_dotenv()
        return checked.check_address(named)
    path = Path(named)
    if path.is_symlink() or (path.exists() and not path.is_dir()) or shards.is_sharded(path):
        return [audit.check_file(path)]
    return audit.check_directory(find_checkpoints(named).path)


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings as JSON values."""
    return [{"file": str(item.path), "state": item.state, "why": item.why} for item in findings]


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings, a line per file."""
    lines = Table.grid(padding=(0, 2))
    for item in findings:
        lines.add_row(_SHOWN[item.state], escape(item.path.name), escape(item.why))
    console.print(lines if findings else "There is no checkpoint here yet.")
