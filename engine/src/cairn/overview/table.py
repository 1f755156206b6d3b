"""The table of all runs below a directory, for the command line, for programs and for notebooks."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.errors import ConfigError, MissingFileError
from cairn.overview import below, columns, filters
from cairn.overview.facts import RunFacts
from cairn.overview.run_config import ABSENT

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """Which runs to show, in which order.

    Raises:
        ConfigError: `limit` is negative.
    """

    filters: tuple[filters.Filter, ...] = ()
    """Conditions that all have to be fulfilled."""
    sort: str = ""
    """Column, key or metric to sort by, smallest first; empty: by their start, newest first."""
    reverse: bool = False
    limit: int | None = None
    """Number of runs; None: all."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 0:
            raise ConfigError(f"limit={self.limit} must be 0 or more.", parameter="limit")


@dataclass(frozen=True)
class RunTable:
    """The runs that a query has found."""

    folder: Path
    columns: tuple[str, ...]
    runs: tuple[RunFacts, ...]
    num_all: int
    """Runs below the directory, also those that the query leaves out."""
    limit: int | None
    """Most runs that the query asks for; None: all."""
    trouble: tuple[str, ...]
    """A sentence for each directory that cannot be read."""

    def rows(self) -> list[dict[str, Any]]:
        """Return plain values by column; None where a run has no value."""
        return [{name: _plain(columns.value_of(run, name)) for name in self.columns} for run in self.runs]


def read(folder: Path, query: Query, names: Sequence[str] = (), default: Sequence[str] = columns.DEFAULT) -> RunTable:
    """Find the runs below a directory.

    Args:
        folder: The directory: `logs`, a sweep, or a run.
        query: Which runs, and their order.
        names: Columns, keys of the configuration and metrics; `+NAME` adds to the default.
        default: Columns without names.

    Raises:
        MissingFileError: There is no such directory.
        ConfigError: A filter, the order or a column names something that no run has.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise MissingFileError(f"{folder} {what}: name a directory that holds runs, such as logs.")
    found = below.find(folder)
    named = [*names, query.sort, *(item.name for item in query.filters)]
    keys = {columns.key_of(name).partition(".")[0] for name in named}
    everything = [RunFacts(path, keys) for path in found.runs]
    shown = columns.chosen(names, default, everything)
    columns.check([item.name for item in query.filters] + [query.sort] * bool(query.sort) + shown, everything)
    wanted = [run for run in everything if all(fits(run) for fits in query.filters)]
    ordered = _sorted(wanted, query)[: query.limit]
    return RunTable(folder, tuple(shown), tuple(ordered), len(everything), query.limit, found.trouble)


def runs(
    directory: str | os.PathLike[str] = "logs",
    *,
    filters: Sequence[str] = (),
    columns: Sequence[str] = (),
    sort: str = "",
    reverse: bool = False,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Return the runs below a directory as plain values, ready for `pandas.DataFrame`: the same as `cairn runs --json`.

    Only small files are read, and torch is not imported.

    Args:
        directory: A directory with runs, of a sweep, or of one run.
        filters: Conditions such as `"model.optimizer.lr<1e-3"` or `"status!=finished"`; a run has to fulfil all.
        columns: Columns, keys of the configuration and metrics, such as `"val/acc"`. `"+NAME"` adds to the default
            columns; with `*`, all that match: `"+model.*"`.
        sort: Column, key or metric to sort by, smallest first; empty: newest first.
        reverse: Whether to reverse the order. Runs without a value come last in either order.
        limit: Number of runs; None: all.

    Returns:
        A dict per run, with the same keys in each. Times are in seconds, shares between 0 and 1, and None is a value
        that is not known.

    Raises:
        MissingFileError: There is no such directory.
        ConfigError: A filter, the order or a column names something that no run has.
    """
    query = Query(parsed(filters), sort, reverse, limit)
    found = read(Path(directory), query, [columns] if isinstance(columns, str) else columns)
    for sentence in found.trouble:
        log.warning("%s", sentence)
    return found.rows()


def parsed(texts: Sequence[str]) -> tuple[filters.Filter, ...]:
    """Read filters.

    Raises:
        ConfigError: One of them is not a filter.
    """
    return tuple(filters.parse(text) for text in ([texts] if isinstance(texts, str) else texts))


def _sorted(found: Sequence[RunFacts], query: Query) -> list[RunFacts]:
    if not query.sort:
        newest = sorted(found, key=lambda run: (run.created_s, run.path), reverse=True)
        return newest[::-1] if query.reverse else newest
    values = {id(run): columns.value_of(run, query.sort) for run in found}
    known = [run for run in found if _order(values[id(run)]) is not None]
    unknown = [run for run in found if _order(values[id(run)]) is None]
    # Equal ones stay in the order of their directories, whatever the direction.
    known.sort(key=lambda run: _order(values[id(run)]) or (), reverse=query.reverse)
    return [*known, *unknown]


def _order(value: Any) -> tuple[int, Any] | None:
    """Return what to sort a value by, numbers before texts; None for what has no place in the order."""
    if value is ABSENT or value is None or value != value:
        return None
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _plain(value: Any) -> Any:
    return None if value is ABSENT else value
