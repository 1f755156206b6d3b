"""`cairn export DIR --to FILE`: a directory of shards as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from cairn.cli.arguments import refuse_address
from cairn.cli.output import print_json
from cairn.runs import terminal
from cairn.units import format_bytes

HELP = "write a checkpoint that is a directory of shards as one file, equal in every bit to an unsharded save"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("named", metavar="DIR", help="checkpoint, or a link to one such as best.ckpt")
    parser.add_argument("--to", required=True, metavar="FILE", help="the new file, such as model.ckpt")


def run(arguments: argparse.Namespace) -> int:
    """Write the file and return 0."""
    refuse_address(arguments.named, "export")
    refuse_address(arguments.to, "export")
    from cairn.writing.export import export  # only here: it imports torch, and the other commands do not wait for that

    num_bytes = export(Path(arguments.named), Path(arguments.to))
    if arguments.json:
        print_json({"file": arguments.to, "num_bytes": num_bytes})
    else:
        terminal.line(f"Wrote {arguments.to} ({format_bytes(num_bytes)}).")
    return 0
