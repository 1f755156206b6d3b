"""`cairn check [OVERRIDES]`: what is wrong with a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cairn.cli import train_script

HELP = "compose a configuration and say what is wrong with it, without training; exit code 1 if something is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command, for `--help`: train.py reads them, see `run`."""
    parser.usage = "cairn check [OVERRIDES] [--json]"
    text = "as for python train.py: GROUP=OPTION, KEY=VALUE, --config-name"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=text)


def run(argv: Sequence[str]) -> int:
    """Replace this process by the project's train.py with `--check`.

    Args:
        argv: Arguments for train.py, as they were typed.

    Raises:
        ConfigError: This directory has no train.py that Cairn runs.
    """
    train_script.become(["--check"], argv, "the constructors check their arguments when the script runs")
