"""The learning curve of a trial: the metric over the batches, from `csv/metrics.csv` of its run.

A damaged or missing file is an empty curve. A large file is read in parts, evenly spaced, and a long curve is thinned:
a search has many trials, and a picture has a thousand pixels.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn import opening
from cairn.errors import ResumeError
from cairn.run.directory import RunDirectory

MOST_POINTS = 300
"""Points of a curve."""
MOST_BYTES = 2**24
"""Bytes that are read of one file."""
_NUM_PARTS = 64
"""Parts of a larger file."""
_LARGEST = 1e150
"""Numbers are smaller than this, so that their differences are finite."""


@dataclass(frozen=True)
class Curve:
    """A metric over the batches."""

    batches: tuple[float, ...] = ()
    values: tuple[float, ...] = ()


def read(run: Path, metric: str) -> Curve:
    """Read the learning curve of a run; empty if there is none.

    Args:
        run: Directory of the run.
        metric: Name of the metric, as it was logged.
    """
    steps, values = array("d"), array("d")
    try:
        for step, value in _points(run / "csv" / "metrics.csv", metric):
            steps.append(step)
            values.append(value)
    except (OSError, csv.Error):  # what is there already is right
        pass
    chosen = _evenly(len(steps), MOST_POINTS)
    per_step = _batches_per_step(run)
    # Lightning logs the index of a step.
    return Curve(tuple(per_step * (steps[place] + 1) for place in chosen), tuple(values[place] for place in chosen))


def _points(path: Path, metric: str) -> Iterator[tuple[float, float]]:
    rows = csv.reader(_lines(path))
    header = next(rows, [])
    # A metric that is logged by step and by epoch has two columns.
    name = next((name for name in (metric, f"{metric}_epoch", f"{metric}_step") if name in header), None)
    if name is None or "step" not in header:
        return
    at, of = header.index("step"), header.index(name)
    for row in rows:
        if len(row) == len(header) and row[of] and row[at]:
            try:
                step, value = float(row[at]), float(row[of])
            except ValueError:
                continue
            if abs(step) < _LARGEST and abs(value) < _LARGEST:  # nor NaN
                yield step, value


def _lines(path: Path) -> Iterator[str]:
    """Yield the first line of a file and then complete lines of it; of a large one only some."""
    with opening.for_reading(path, opening.MOST_ROW_BYTES) as file:
        num_bytes = file.seek(0, 2)
        size = num_bytes if num_bytes <= MOST_BYTES else MOST_BYTES // _NUM_PARTS
        for number in range(1 if size == num_bytes else _NUM_PARTS):
            start = (num_bytes - size) * number // (_NUM_PARTS - 1)
            file.seek(start)
            lines = file.read(size).decode("utf-8", "replace").split("\n")
            # The last one is empty, or a row that is not complete yet.
            yield from (line.rstrip("\r") for line in lines[1 if number else 0 : -1] if line)


def _evenly(number: int, most: int) -> Sequence[int]:
    """Return at most `most` of the numbers below `number`, the first and the last among them."""
    return range(number) if number <= most else [round(place * (number - 1) / (most - 1)) for place in range(most)]


def _batches_per_step(run: Path) -> int:
    try:
        trainer = RunDirectory(run).config("trainer").get("trainer")
    except ResumeError:
        return 1
    number = trainer.get("accumulate_grad_batches") if isinstance(trainer, dict) else None
    return number if isinstance(number, int) and number > 0 else 1
