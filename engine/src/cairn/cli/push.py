"""`cairn push RUN ADDRESS`: copy a run into an object store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cairn.cli import copied
from cairn.cli.arguments import add_run, find_run, load_dotenv
from cairn.cli.output import print_json
from cairn.errors import ResumeError
from cairn.remote import address
from cairn.run.claimed import claimed

if TYPE_CHECKING:
    from cairn.remote.copied import Copied

HELP = "copy what an object store lacks of a run: checkpoints, configuration, metrics; exit code 1 if one is corrupt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_run(parser)
    parser.add_argument("address", metavar="ADDRESS", help="where the run goes: s3://bucket/prefix/RUN, gs://, az://")


def run(arguments: argparse.Namespace) -> int:
    """Upload, print what the mirror has, and return 1 if a checkpoint could not be uploaded."""
    pushed = collect(arguments.named, arguments.address)
    if arguments.json:
        print_json({"address": arguments.address, **copied.as_json(pushed, "uploaded")})
    else:
        copied.show(pushed, "uploaded", arguments.address)
    return int(bool(pushed.skipped))


def collect(named: str, where: str) -> Copied:
    """Upload what a mirror lacks of a run.

    Args:
        named: A run directory, its checkpoint directory, or `latest`.
        where: Address of the run.

    Raises:
        CairnError: There is no such run, a process trains in it, or the store cannot be used.
    """
    to = address.parse(where)
    directory, run = find_run(named, "push needs the id of the run")
    address.check_apart(to, run.path, directory.path)
    from cairn.remote.push import Source, push

    load_dotenv()
    with claimed(run, directory.path):
        record = run.record()
        if record is None:
            raise ResumeError(f"{run.path} is not a run directory: it has no run.json.")
        return push(Source(directory.path, run.path, record.id, directory.mode), to)
