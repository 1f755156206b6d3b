"""Names of runs in a table: the jobs of a sweep stand below its directory, without the overrides that they share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len

_INDENT = "  "
_OVERRIDES = re.compile(r",(?=[^,=\[\]{}]*=)")
"""A comma between two overrides, not one inside of a list."""


@dataclass(frozen=True)
class RunName:
    """How a table names a run.

    Attributes:
        text: Its name.
        above: Lines of their own above the run: the directory of its sweep; empty for all but the first of its jobs.
    """

    text: str
    above: tuple[str, ...] = ()


def grouped(paths: Sequence[str]) -> list[RunName]:
    """Return the names of runs. Jobs of the same sweep that follow each other have a heading together.

    Args:
        paths: Paths of the runs, relative to the directory of the table.
    """
    found: list[RunName] = []
    for sweep, group in groupby(paths, key=_sweep):
        names = list(group)
        if not sweep or len(names) == 1:
            found += map(RunName, names)
            continue
        parts = [_OVERRIDES.split(name[len(sweep) :]) for name in names]
        shared = [part for part in parts[0] if all(part in other for other in parts)]
        rest = [",".join(part for part in item if part not in shared) or ",".join(item) for item in parts]
        heading = [sweep, *([f"{_INDENT}each with {','.join(shared)}"] if shared else [])]
        found += [RunName(_INDENT + text, tuple(heading) if number == 0 else ()) for number, text in enumerate(rest)]
    return found


def folded(text: str, width: int) -> str:
    """Return a text in lines of at most this width, broken after a comma or a slash where possible."""
    indent = text[: len(text) - len(text.lstrip())]
    lines, text = [], text.lstrip()
    width -= len(indent)
    while cell_len(text) > width:
        at = max(text.rfind(mark, 0, width) for mark in ",/") + 1 or width
        lines.append(indent + text[:at])
        text = text[at:].lstrip()
    return "\n".join([*lines, indent + text])


def _sweep(path: str) -> str:
    """Return the directory of the sweep that a run is a job of, with a slash; empty if its name is not an override."""
    folder, slash, name = path.rpartition("/")
    return folder + slash if "=" in name else ""
