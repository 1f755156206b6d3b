"""Curves over the number of rows of metrics.csv: what a resume takes, and what training waits for at a new key.

Wall time: another thread writes the column, and its processor time is not what training waits for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth.curve import Curve

SIZES = (62_500, 250_000, 1_000_000)


def _written(folder: Path, num_rows: int) -> Any:
    from cairn import CSVLogger

    logger = CSVLogger(folder)
    for step in range(num_rows):
        logger.log_metrics({"train/loss": 1 / (step + 1), "lr": 1e-3, "epoch": step // 1000}, step)
        if step % 1000 == 0:
            logger.save()
    logger.save()
    return logger


def _cut(folder: Path, num_rows: int, keys: Sequence[str]) -> float:
    from cairn import CSVLogger

    logger = _written(folder, num_rows)
    state = {key: value for key, value in logger.state_dict().items() if key in keys}
    logger.log_metrics({"train/loss": 0.0}, num_rows)
    logger.save()
    started = time.perf_counter()
    CSVLogger(folder).load_state_dict(state)
    return time.perf_counter() - started


def resume(folder: Path, size: int) -> float:
    """A resume from a checkpoint that knows its position in the file."""
    return _cut(folder, size, ("rows", "columns", "bytes", "last"))


def resume_of_an_older_checkpoint(folder: Path, size: int) -> float:
    """A resume from a checkpoint of an earlier version, which knows the number of rows only."""
    return _cut(folder, size, ("rows", "columns"))


def new_key(folder: Path, size: int) -> float:
    """The part of a new key that training waits for."""
    return _with_a_new_key(folder, size)[0]


def new_key_in_the_background(folder: Path, size: int) -> float:
    """A new key, until all rows have its cell."""
    return _with_a_new_key(folder, size)[1]


def _with_a_new_key(folder: Path, size: int) -> tuple[float, float]:
    logger = _written(folder, size)
    logger.log_metrics({"test/loss": 1.0}, size)
    started = time.perf_counter()
    logger.save()
    waited_s = time.perf_counter() - started
    logger.finalize("success")
    return waited_s, time.perf_counter() - started


_OF = "rows of metrics.csv"
CURVES = (
    Curve("csv, resume", "a resume cuts metrics.csv", _OF, SIZES, resume, 0.1),
    Curve("csv, resume of 0.1", "the same with a checkpoint of version 0.1", _OF, SIZES, resume_of_an_older_checkpoint),
    Curve("csv, new key", "a new key in metrics.csv: what training waits for", _OF, SIZES, new_key, 0.01),
    Curve("csv, new key written", "the same, until all rows have its cell", _OF, SIZES, new_key_in_the_background),
)
