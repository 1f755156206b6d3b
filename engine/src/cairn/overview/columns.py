"""Columns of the table: what each shows of a run, and which key of a configuration or metric a name means."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cairn.errors import ConfigError
from cairn.overview.facts import RunFacts
from cairn.overview.run_config import ABSENT

Kind = Literal["text", "number", "share", "seconds"]
"""What a value is, for the table and for the units that a filter understands."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        of: Returns its value for a run; None if it is not known.
        kind: What that value is.
        header: Its name in the table.
    """

    of: Callable[[RunFacts], Any]
    kind: Kind = "text"
    header: str = ""


def shown_path(path: Path) -> str:
    """Return a path as a user would type it in the current directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _saved(name: str) -> Callable[[RunFacts], Any]:
    return lambda run: getattr(run.reached, name) if run.reached else None


def _recorded(name: str) -> Callable[[RunFacts], Any]:
    return lambda run: getattr(run.record, name) if run.record else None


COLUMNS: Mapping[str, Column] = {
    "run": Column(lambda run: shown_path(run.path)),
    "task": Column(_recorded("task_name")),
    "status": Column(lambda run: run.status),
    "progress": Column(lambda run: run.share, "share", "done"),
    "best": Column(lambda run: run.best.score if run.best else None, "number"),
    "test": Column(lambda run: run.metrics.of(run.test_metric) if run.test_metric else None, "number"),
    "duration_s": Column(lambda run: run.spent.wall_s if run.spent else None, "seconds", "duration"),
    "goodput": Column(lambda run: run.spent.goodput if run.spent else None, "share"),
    "tags": Column(lambda run: _list(run.config.value("tags"))),
    "why": Column(lambda run: (run.record.why if run.record else "") or run.trouble or None),
    "created": Column(lambda run: run.created),
    "epoch": Column(_saved("epoch"), "number"),
    "step": Column(_saved("step"), "number"),
    "trained_s": Column(_saved("elapsed_s"), "seconds", "trained"),
    "attempts": Column(lambda run: len(run.tried) or None, "number"),
    "monitor": Column(lambda run: run.monitor),
    "test_metric": Column(lambda run: run.test_metric),
    "result": Column(_recorded("result"), "number"),
    "id": Column(_recorded("id")),
    "overrides": Column(lambda run: list(run.record.overrides) if run.record else None),
    "commit": Column(lambda run: run.code or None),
}
"""All columns by their names. A key of a configuration or a metric with such a name is `config.NAME`, `metric.NAME`."""
TABLE = ("run", "task", "status", "progress", "best", "test", "duration_s", "goodput", "tags")
"""Columns of the table in a terminal."""
DEFAULT = (*TABLE, "why", "created", "epoch", "step", "trained_s", "attempts", "monitor", "test_metric", "id")
"""Columns for programs."""
_CONFIG, _METRIC = "config.", "metric."


def key_of(name: str) -> str:
    """Return the key of the configuration that a name means, if it is neither a column nor a metric."""
    return name.removeprefix("+").removeprefix(_CONFIG)


def value_of(run: RunFacts, name: str) -> Any:
    """Return the value of a column, a key of the configuration or a metric, in this order; `ABSENT` if it has none."""
    if (column := COLUMNS.get(name)) is not None:
        return column.of(run)
    if name.startswith(_METRIC):
        return _metric(run, name.removeprefix(_METRIC))
    found = run.config.value(name.removeprefix(_CONFIG))
    return _metric(run, name) if found is ABSENT and not name.startswith(_CONFIG) else found


def chosen(names: Sequence[str], default: Sequence[str], runs: Sequence[RunFacts]) -> list[str]:
    """Return the columns that a user names.

    Args:
        names: Names; `+NAME` adds to the default columns. With `*`, `?` or `[`, all keys and metrics that match.
        default: Columns without any name.
        runs: The runs of the table.
    """
    adds = all(name.startswith("+") for name in names)
    found = list(default) if adds else []
    for name in names:
        name = name.removeprefix("+")
        is_pattern = name not in COLUMNS and any(character in name for character in "*?[")
        found += fnmatch.filter(_names(runs), name) if is_pattern else [name]
    return list(dict.fromkeys(found))


def check(names: Iterable[str], runs: Sequence[RunFacts]) -> None:
    """Check that each name means something.

    Args:
        names: Names of columns, keys or metrics.
        runs: All runs.

    Raises:
        ConfigError: No run has such a key or metric.
    """
    for name in names:
        if name in COLUMNS or not runs or any(value_of(run, name) is not ABSENT for run in runs):
            continue
        near = nearest(name, [*COLUMNS, *_names(runs)])
        meant = f"did you mean {near}?" if near else f"columns are {', '.join(COLUMNS)}."
        raise ConfigError(f"No run has a column, a key or a metric named {name}: {meant}")


def nearest(name: str, names: Collection[str]) -> str:
    """Return the most similar name; empty if none is similar. The last part of a dotted key may stand for it."""
    ends = {item.rpartition(".")[2]: item for item in reversed(list(names))}
    near = name if name in ends else next(iter(difflib.get_close_matches(name, [*names, *ends], n=1)), "")
    return ends.get(near, near)


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """Return the keys and metrics of all runs, in the order of their files."""
    found: dict[str, None] = {}
    for run in runs:
        found.update(dict.fromkeys(run.config.values))
    for run in runs:
        found.update(dict.fromkeys(run.metrics.names))
    return list(found)


def _metric(run: RunFacts, name: str) -> Any:
    found = run.metrics.of(name)
    return ABSENT if found is None else found


def _list(value: Any) -> list[str] | None:
    if value is ABSENT or value is None:
        return None
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
