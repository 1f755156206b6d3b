"""Times a command of `cairn` inside of this process."""

from __future__ import annotations

import contextlib
import io

from benchmarks.growth.curve import clock


def timed(*argv: str) -> float:
    """Return how long a command takes, with the import of its modules; its output is swallowed.

    Args:
        *argv: The command line, without `cairn`.

    Raises:
        SystemExit: It failed.
    """
    started = clock()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        from cairn.cli.main import main

        code = main(argv)
    if code:
        raise SystemExit(f"{argv[0]} ended with {code}: {printed.getvalue()[-200:]}")
    return clock() - started
