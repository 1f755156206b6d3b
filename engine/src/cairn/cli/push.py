"""`cairn push RUN ADDRESS`: copy a run into an object store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cairn.cli.arguments import add_run, find_run, load_dotenv
from cairn.cli.output import print_json
from cairn.errors import ResumeError
from cairn.remote import address
from cairn.runs import terminal
from cairn.runs.claimed import claimed
from cairn.units import format_bytes

if TYPE_CHECKING:
    from cairn.remote.push import Pushed

HELP = "copy what an object store lacks of a run: checkpoints, configuration, metrics; exit code 1 if one is corrupt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_run(parser)
    parser.add_argument("address", metavar="ADDRESS", help="where the run goes: s3://bucket/prefix/RUN, gs://, az://")


def run(arguments: argparse.Namespace) -> int:
    """Upload, print what the mirror has, and return 1 if a checkpoint could not be uploaded."""
    pushed = collect(arguments.named, arguments.address)
    if arguments.json:
        print_json(as_json(pushed, arguments.address))
    else:
        show(pushed, arguments.address)
    return int(bool(pushed.skipped))


def collect(named: str, where: str) -> Pushed:
    """Upload what a mirror lacks of a run.

    Args:
        named: A run directory, its checkpoint directory, or `latest`.
        where: Address of the run.

    Raises:
        CairnError: There is no such run, a process trains in it, or the store cannot be used.
    """
    to = address.parse(where)
    directory, run = find_run(named, "push needs the id of the run")
    from cairn.remote.push import Source, push

    load_dotenv()
    with claimed(run, directory.path):
        record = run.record()
        if record is None:
            raise ResumeError(f"{run.path} is not a run directory: it has no run.json.")
        return push(Source(directory.path, run.path, record.id, directory.mode), to)


def as_json(pushed: Pushed, where: str) -> dict[str, Any]:
    """Return what was done as JSON values."""
    return {
        "address": where,
        "uploaded": [item.name for item in pushed.uploaded],
        "present": [item.name for item in pushed.present],
        "skipped": [{"name": name, "why": why} for name, why in pushed.skipped],
    }


def show(pushed: Pushed, where: str) -> None:
    """Print what was done."""
    for name, why in pushed.skipped:
        terminal.line(f"not uploaded: {name}, {why}")
    size = format_bytes(sum(item.num_bytes for item in pushed.uploaded))
    terminal.line(f"{where}: {len(pushed.uploaded)} uploaded ({size}), {len(pushed.present)} were there already.")
