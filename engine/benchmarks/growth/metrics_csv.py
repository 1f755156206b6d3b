"""Curves over the number of rows of metrics.csv: what a resume takes, and what training waits for at a new key.

`python -m benchmarks.growth.metrics_csv [PLOT]` measures them alone.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SIZES = (62_500, 250_000, 1_000_000)
Measure = Callable[[Path, int], float]
"""Prepares a file of this many rows in an empty folder, and returns the seconds that the measured part takes."""


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


MEASURES: dict[str, Measure] = {
    "resume": resume,
    "resume, older checkpoint": resume_of_an_older_checkpoint,
    "new key, training waits": new_key,
    "new key, until written": new_key_in_the_background,
}


def curve(measure: Measure, sizes: Sequence[int] = SIZES, repeats: int = 2) -> tuple[list[int], list[float]]:
    """Return the sizes and the seconds at each: the best of the repetitions."""
    seconds = []
    for size in sizes:
        runs = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure(Path(folder), size))
        seconds.append(min(runs))
    return list(sizes), seconds


def main(plot: str | None) -> None:
    """Measure all, print a line for each with the ratio per doubling of the size, and draw them."""
    curves = {}
    for name, measure in MEASURES.items():
        sizes, seconds = curves[name] = curve(measure)
        steps = zip(itertools.pairwise(sizes), itertools.pairwise(seconds), strict=True)
        ratios = [(late / early) ** (1 / math.log2(large / small)) for (small, large), (early, late) in steps]
        shown = ", ".join(f"{size:,}: {1e3 * taken:.2f} ms" for size, taken in zip(sizes, seconds, strict=True))
        print(f"{name}: {shown}; per doubling x {', '.join(f'{ratio:.2f}' for ratio in ratios)}", flush=True)
    if plot is not None:
        _draw(curves, Path(plot))


def _draw(curves: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, (sizes, seconds) in curves.items():
        axes.loglog(sizes, seconds, marker="o", label=name)
    axes.set(xlabel="rows of metrics.csv", ylabel="seconds")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
