"""Command line of `cairn`, which is also `python -m cairn`: parses the arguments and runs one command.

It needs only the base dependencies. A command imports its optional dependencies when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from cairn import __version__
from cairn.cli import (
    check,
    diff,
    export,
    ls,
    prove,
    prune,
    pull,
    push,
    report,
    runs,
    schema,
    show,
    status,
    sync,
    verify,
)
from cairn.errors import CairnError
from cairn.run import terminal

_COMMANDS: Mapping[str, Any] = {
    "runs": runs,
    "diff": diff,
    "ls": ls,
    "verify": verify,
    "prune": prune,
    "prove": prove,
    "show": show,
    "check": check,
    "schema": schema,
    "export": export,
    "push": push,
    "pull": pull,
    "sync": sync,
    "status": status,
    "report": report,
}

_OF_TRAIN_SCRIPT: Mapping[str, Any] = {"prove": prove, "check": check, "schema": schema}
"""Commands whose arguments are those of train.py."""


def main(argv: Sequence[str]) -> int:
    """Run one command.

    Args:
        argv: Command-line arguments, without the name of the program.

    Returns:
        Exit code: 0; 1 after an error or a failed check. Invalid arguments exit with 2.
    """
    try:
        if argv and (command := _OF_TRAIN_SCRIPT.get(argv[0])) and not {"-h", "--help"} & set(argv):
            return int(command.run(argv[1:]))
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    except CairnError as error:
        terminal.error(f"Error: {error}")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cairn", description="Inspect and manage runs and their checkpoints.")
    parser.add_argument("--version", action="version", version=f"cairn {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
        command.set_defaults(run=module.run)
    return parser
