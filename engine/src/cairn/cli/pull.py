"""`cairn pull ADDRESS`: copy a run from an object store."""

from __future__ import annotations

import argparse
from pathlib import Path

from cairn.cli import copied
from cairn.cli.arguments import LOGS, load_dotenv, ranking
from cairn.cli.output import print_json
from cairn.policy.keep import Latest
from cairn.remote.copied import Copied
from cairn.remote.fetch import Target
from cairn.remote.pull import pull
from cairn.run import mirrored_run, summary, terminal
from cairn.run.claimed import claimed

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
        print_json({"run": str(run), **copied.as_json(pulled, "downloaded")})
    else:
        show(run, pulled)
    return int(bool(pulled.skipped))


def collect(text: str, to: str | None, everything: bool) -> tuple[Path, Copied]:
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


def show(run: Path, pulled: Copied) -> None:
    """Print what was copied, and how the run is resumed."""
    copied.show(pulled, "downloaded", summary.relative(run))
    if (run / "run.json").is_file():
        terminal.line(f"resume: {summary.command(run)}")
