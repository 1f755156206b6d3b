"""`cairn schema`: JSON schemas for the editor, from the classes that the configuration names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cairn.cli import train_script

HELP = "write the JSON schemas by which editors complete and check the files in configs/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command, for `--help`: train.py reads them, see `run`."""
    parser.usage = "cairn schema [--check] [--json]"
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if one is not up to date")


def run(argv: Sequence[str]) -> int:
    """Replace this process by the project's train.py with `--schema`.

    Args:
        argv: Arguments for train.py, as they were typed.

    Raises:
        ConfigError: This directory has no train.py that Cairn runs.
    """
    train_script.become(["--schema"], argv, "there is no configuration to describe")
