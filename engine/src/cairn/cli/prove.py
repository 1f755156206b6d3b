"""`cairn prove [OVERRIDES]`: kill and resume a short version of a training, and compare."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from cairn.errors import ConfigError

HELP = "kill and resume a short version of a training, and compare; exit code 1 if it is not exact"
SCRIPT = "train.py"
NOT_TRIED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="as for python train.py: GROUP=OPTION, KEY=VALUE"
    )
    parser.add_argument("--stops", type=int, metavar="N", help="number of boundaries to kill at (default 6)")
    parser.add_argument("--epochs", type=int, metavar="N", help="limit for the epochs (default 2)")
    parser.add_argument("--batches", type=int, metavar="N", help="limit for the batches of an epoch (default 6)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed for the choice of boundaries (default 0)")
    parser.add_argument("--keep", metavar="DIR", help="keep the runs in this new directory")


def run(arguments: argparse.Namespace) -> int:
    """Run the project's train.py with `prove=true`, which does the work; return its exit code."""
    script = Path(SCRIPT)
    try:
        if not script.is_file():
            raise ConfigError(
                f"{SCRIPT} does not exist here: call this command in the directory of the project, or "
                f"python SCRIPT prove=true. Without cairn.hydra: cairn.testing.assert_exact in a test."
            )
        if "cairn" not in script.read_text(encoding="utf-8", errors="replace"):
            raise ConfigError(
                f"{SCRIPT} does not use cairn.hydra, which this command needs: call cairn.testing.assert_exact in a "
                f"test instead."
            )
    except ConfigError as error:
        print(f"Error: {error}", file=sys.stderr)
        return NOT_TRIED
    names = ("stops", "epochs", "batches", "seed", "keep")
    flags = [f"--{name}={value}" for name in names if (value := getattr(arguments, name)) is not None]
    flags += ["--json"] * arguments.json
    command = [sys.executable, SCRIPT, *arguments.overrides, "prove=true", *flags]
    return subprocess.run(command, check=False).returncode
