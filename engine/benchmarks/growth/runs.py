"""Curves over the number of runs in a sweep, each with two checkpoints."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth import made
from benchmarks.growth.commands import timed
from benchmarks.growth.curve import Curve


def status(folder: Path, size: int) -> float:
    """`cairn status`, with its table."""
    return timed("status", str(_sweep(folder, size)))


def report(folder: Path, size: int) -> float:
    """`cairn report`, with its tables, plots and page."""
    return timed("report", str(_sweep(folder, size)))


def _sweep(folder: Path, size: int) -> Path:
    for number in range(size):
        made.run(folder / f"checkpoint=interval,seed={number}", number)
    return folder


_SIZES = (75, 300, 3_000)
CURVES = (
    Curve("status", "`cairn status`", "runs", _SIZES, status, 10.0),
    Curve("report", "`cairn report`: table, plots, page", "runs", _SIZES, report, 10.0),
)
