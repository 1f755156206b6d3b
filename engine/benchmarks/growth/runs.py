"""Curves over the number of runs in a sweep, each with two checkpoints."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth import made
from benchmarks.growth.commands import timed
from benchmarks.growth.curve import Curve


def status(folder: Path, size: int) -> float:
    """`cairn status`, with its table."""
    return timed("status", str(_sweep(folder, size)))


def listing(folder: Path, size: int) -> float:
    """`cairn runs`, with its table."""
    return timed("runs", str(_sweep(folder, size)))


def selection(folder: Path, size: int) -> float:
    """`cairn runs` with a key of the configuration and a metric, sorted by it."""
    options = ["--columns", "+model.optimizer.lr,+val/loss", "--filter", "data.batch_size=64", "--sort", "val/loss"]
    return timed("runs", str(_sweep(folder, size)), *options)


def report(folder: Path, size: int) -> float:
    """`cairn report`, with its tables, plots and page."""
    return timed("report", str(_sweep(folder, size)))


def _sweep(folder: Path, size: int) -> Path:
    for number in range(size):
        made.run(folder / f"checkpoint=interval,seed={number}", number)
    return folder


_SIZES = (75, 300, 3_000)
_LISTED = (100, 1_000, 4_000)
CURVES = (
    Curve("status", "`cairn status`", "runs", _SIZES, status, 10.0),
    Curve("report", "`cairn report`: table, plots, page", "runs", _SIZES, report, 10.0),
    Curve("runs", "`cairn runs`: the table", "runs", _LISTED, listing, 10.0),
    Curve("runs, selected", "the same with a key, a metric, a filter, sorted", "runs", _LISTED, selection, 10.0),
)
