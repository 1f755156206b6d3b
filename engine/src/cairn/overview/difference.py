"""What differs between two runs: their configuration, their code, their versions, their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cairn.errors import ResumeError
from cairn.overview.columns import COLUMNS, value_of
from cairn.overview.facts import RunFacts
from cairn.overview.run_config import ABSENT

RUN = "RUN"
"""Stands for the run's own directory in a value of its configuration."""
_RESULTS = (
    "status",
    "why",
    "progress",
    "epoch",
    "step",
    "best",
    "result",
    "trained_s",
    "duration_s",
    "goodput",
    "attempts",
)

Pair = tuple[Any, Any]
"""A value of the first and of the second run; `ABSENT` where a run has none."""


@dataclass(frozen=True)
class Difference:
    """What differs, by name."""

    config: Mapping[str, Pair]
    code: Pair
    """Commits, with a + if files had changed since, also if they are equal; empty where none is recorded."""
    versions: Mapping[str, Pair]
    """Versions of packages, world size and seed, as their newest checkpoints record them."""
    result: Mapping[str, Pair]
    """Columns of the table, and the last value of each metric."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.config or self.versions or self.result) and self.code[0] == self.code[1]


def between(first: RunFacts, second: RunFacts) -> Difference:
    """Compare two runs.

    Args:
        first: One run.
        second: Another run.

    Raises:
        ResumeError: The configuration of one of them cannot be read.
    """
    versions = [{name: item for name, item in run.provenance.items() if name != "git"} for run in (first, second)]
    return Difference(
        config=_pairs(_config(first), _config(second)),
        code=(first.code, second.code),
        versions=_pairs(*versions) if all(versions) else {},
        result=_pairs(_result(first), _result(second)),
    )


def _config(run: RunFacts) -> dict[str, Any]:
    if not run.config.values:
        run.directory.config()  # raises the reason
        raise ResumeError(f"{run.directory.config_file} is empty.")
    own = str(run.config.values.get("paths.output_dir") or run.path)
    return {key: _moved(value, own) for key, value in run.config.values.items()}


def _moved(value: Any, own: str) -> Any:
    """Return a value with `RUN` in place of the run directory, which differs between any two runs."""
    if isinstance(value, list):
        return [_moved(item, own) for item in value]
    is_inside = isinstance(value, str) and (value == own or value.startswith(f"{own}/"))
    return RUN + value[len(own) :] if is_inside else value


def _result(run: RunFacts) -> dict[str, Any]:
    columns = {name: value_of(run, name) for name in _RESULTS if name in COLUMNS}
    known = {name: value for name, value in columns.items() if value is not None}
    return {**known, **run.metrics.several(run.metrics.names)}


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    """Return the values that differ, those of the first mapping first."""
    both = {name: (first.get(name, ABSENT), second.get(name, ABSENT)) for name in [*first, *second]}
    return {name: pair for name, pair in both.items() if not _is_same(*pair)}


def _is_same(one: Any, other: Any) -> bool:
    # True is not 1 in a configuration; NaN is the same result as NaN.
    return (type(one) is type(other) and one == other) or (one != one and other != other)
