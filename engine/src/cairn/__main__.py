"""Entry point of the command `cairn` and of `python -m cairn`."""

import sys

from cairn import streams
from cairn.cli.main import main


def run() -> int:
    """Run the command line of this process and return its exit code."""
    streams.protect()
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
