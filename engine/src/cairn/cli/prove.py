"""`cairn prove [OVERRIDES]`: kill and resume a short version of a training, and compare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cairn.cli import train_script
from cairn.errors import ConfigError

HELP = "kill and resume a short version of a training, and compare; exit code 1 if it is not exact"
NOT_TRIED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command, for `--help`: train.py reads them, see `run`."""
    parser.usage = "cairn prove [OVERRIDES] [FLAGS]"
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for python train.py: GROUP=OPTION, KEY=VALUE, --config-name",
    )
    parser.add_argument("--stops", metavar="N", help="number of boundaries to kill at (default 6)")
    parser.add_argument("--epochs", metavar="N", help="limit for the epochs (default 2)")
    parser.add_argument("--batches", metavar="N", help="limit for the batches of an epoch (default 6)")
    parser.add_argument("--seed", metavar="N", help="seed for the choice of boundaries (default 0)")
    parser.add_argument("--keep", metavar="DIR", help="keep the runs in this new directory")


def run(argv: Sequence[str]) -> int:
    """Replace this process by the project's train.py with `prove=true`; return an exit code if there is none.

    Args:
        argv: Arguments for train.py, as they were typed: it knows which of its flags have a value.
    """
    given = [arg for arg in argv if not arg.startswith("prove=")]
    try:
        # `prove=true` is first, since a flag at the end without its value would take it for the value.
        train_script.become(["prove=true"], given, "call cairn.testing.assert_exact in a test")
    except ConfigError as error:
        print(f"Error: {error}", file=sys.stderr)
        return NOT_TRIED
