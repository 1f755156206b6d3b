"""Equality of two runs: bit for bit, in everything that a resume could get wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cairn.lightning.saved.unsaved import KEY
from cairn.store.catalog import Catalog
from cairn.writing.load import load

# These may differ between a run and its resumed twin: the id of the run, its directory, durations, and what is compared
# at a resume only.
NOT_COMPARED = {("cairn", "run"), ("cairn", "config"), ("cairn", "clock")} | {
    ("cairn", key) for key in ("attributes", "settings")
}


@dataclass(frozen=True)
class Outcome:
    """Results of a run."""

    final: Mapping[str, Any]
    """Contents of its newest checkpoint: weights, optimizer, schedulers, loops, callbacks, RNG, sums."""
    rows: list[dict[str, str]]
    """Rows of csv/metrics.csv."""
    kept: list[tuple[str, tuple[str, ...], float | None, int]]
    """Name, reasons, score and number of each kept checkpoint."""
    best: str
    """Target of best.ckpt."""
    samples: list[Any]
    """Samples in the order of training."""


def outcome(run: Path, samples: list[Any]) -> Outcome:
    """Read the results of a run from its directory."""
    checkpoints = run / "checkpoints"
    best = checkpoints / "best.ckpt"
    metrics = run / "csv" / "metrics.csv"
    return Outcome(
        final=_final(checkpoints / "last.ckpt"),
        rows=list(csv.DictReader(metrics.read_text().splitlines())) if metrics.is_file() else [],
        kept=[(item.name, item.reasons, item.score, item.number) for item in Catalog(checkpoints).committed()],
        best=str(best.readlink()) if best.is_symlink() else "",
        samples=samples,
    )


def _final(path: Path) -> Any:
    return load(path) if path.is_dir() else torch.load(path, weights_only=True)


def differences(one: Outcome, other: Outcome, same_directory: bool = True) -> list[str]:
    """List the differences between the results of two runs; empty if they are equal.

    Args:
        one: Results of a run.
        other: Results of another run.
        same_directory: False if `other` is a new run that started from a checkpoint of `one`. It has its own history
            of metrics and checkpoints, which must be the tail of the first one's.

    Returns:
        A line per difference.
    """
    found = list(_compare(_comparable(one.final), _comparable(other.final), "checkpoint"))
    found += list(_compare(one.samples, other.samples, "samples"))
    if same_directory:
        found += list(_compare(one.rows, other.rows, "metrics.csv"))
        found += list(_compare(one.kept, other.kept, "kept"))
        found += list(_compare(one.best, other.best, "best.ckpt"))
    else:
        tail = one.rows[len(one.rows) - len(other.rows) :]
        found += list(_compare(_filled(tail), _filled(other.rows), "metrics.csv (tail)"))
    return found


def assert_same(one: Any, other: Any) -> None:
    """Assert that two states are equal, bit for bit."""
    assert not list(_compare(one, other, "state"))


def _filled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if value} for row in rows]


def _comparable(final: Mapping[str, Any]) -> dict[str, Any]:
    ours = {name: value for name, value in final[KEY].items() if (KEY, name) not in NOT_COMPARED}
    ranks = [
        {**rank, "own": [(path, value) for path, value in rank.get("own", ()) if tuple(path[:2]) not in NOT_COMPARED]}
        for rank in ours["ranks"]
    ]
    return {**final, KEY: {**ours, "ranks": ranks, "loggers": None}}


def _compare(one: Any, other: Any, where: str) -> Iterator[str]:
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__} and {type(other).__name__}"
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or not _same_bits(one, other):
            yield f"{where}: {one} and {other}"
    elif isinstance(one, Mapping):
        if list(one) != list(other):
            yield f"{where}: keys {sorted(map(str, one.keys() ^ other.keys())) or 'in another order'}"
        for key in one.keys() & other.keys():
            yield from _compare(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)} items"
        for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
            yield from _compare(mine, theirs, f"{where}[{index}]")
    elif one != other and not (one != one and other != other):
        yield f"{where}: {one!r} and {other!r}"


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.contiguous().view(torch.uint8).equal(other.contiguous().view(torch.uint8))
        if one.ndim
        else (one.reshape(1).view(torch.uint8).equal(other.reshape(1).view(torch.uint8)))
    )
