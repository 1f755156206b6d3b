"""`cairn prove [OVERRIDES]`: kill and resume a short version of a training, and compare."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cairn import opening
from cairn.errors import ConfigError

HELP = "kill and resume a short version of a training, and compare; exit code 1 if it is not exact"
SCRIPT = "train.py"
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
    script = Path(SCRIPT)
    try:
        if not script.is_file():
            raise ConfigError(
                f"{SCRIPT} does not exist here: call this command in the directory of the project, or "
                f"python SCRIPT prove=true. Without cairn.hydra: cairn.testing.assert_exact in a test."
            )
        if b"cairn" not in opening.read_bytes(script):
            raise ConfigError(
                f"{SCRIPT} does not use cairn.hydra, which this command needs: call cairn.testing.assert_exact in a "
                f"test instead."
            )
    except (ConfigError, OSError) as error:
        why = error if isinstance(error, ConfigError) else f"{SCRIPT} cannot be read: {error.strerror or error}."
        print(f"Error: {why}", file=sys.stderr)
        return NOT_TRIED
    given = [arg for arg in argv if not arg.startswith("prove=")]
    sys.stdout.flush()
    sys.stderr.flush()
    # The command becomes this process, so that a signal and the exit code need not be passed on. `prove=true` is first,
    # since a flag at the end without its value would take it for the value.
    os.execv(sys.executable, [sys.executable, SCRIPT, "prove=true", *given])
