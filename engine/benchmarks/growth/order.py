"""Curves over the number of samples in a shuffled epoch. `python -m benchmarks.growth.order` measures them alone."""

from __future__ import annotations

import time
from pathlib import Path

from cairn.data import shuffles
from cairn.data.loader import DataLoader
from cairn.data.sampler import EpochSampler

SIZES = (10**7, 10**8, 10**9)
"""Samples."""
DRAWN_SIZES = (10**6, 10**7, 10**8)
"""Samples for the way of version 0.1, which would take 4 GB and minutes for a billion."""


def epoch(folder: Path, size: int) -> float:
    """Time from a new epoch to its first batch."""
    return _first_batch(size, batch=0)


def resume(folder: Path, size: int) -> float:
    """Time from a position in the middle of an epoch to the next batch."""
    return _first_batch(size, batch=size // 64)


def drawn(folder: Path, size: int) -> float:
    """The same in the way of version 0.1, which drew the whole order."""
    shuffles.begin_run("shuffled")
    try:
        return _first_batch(size, batch=size // 64)
    finally:
        shuffles.begin_run()


def thousand_batches(folder: Path, size: int) -> float:
    """Indices of 1,000 batches of 32, from the middle of an epoch."""
    order = EpochSampler(size)
    order.seek(0, size // 2)
    indices = iter(order)
    next(indices)
    begin = time.perf_counter()
    for _ in range(32_000):
        next(indices)
    return time.perf_counter() - begin


def _first_batch(size: int, batch: int) -> float:
    next(iter(_loader(64)))  # imports of torch
    loader = _loader(size)
    begin = time.perf_counter()
    loader.load_state_dict(loader.state_dict() | {"epoch": 3, "batch": batch})
    next(iter(loader))
    return time.perf_counter() - begin


def _loader(size: int) -> DataLoader:
    return DataLoader(range(size), 32, shuffle=True, seeded_items=False)  # type: ignore[arg-type]  # all that it needs


if __name__ == "__main__":
    for measure, sizes in {epoch: SIZES, resume: SIZES, thousand_batches: SIZES, drawn: DRAWN_SIZES}.items():
        found = ", ".join(f"{size:,}: {measure(Path(), size):.4g} s" for size in sizes)
        print(f"{measure.__name__}: {found}", flush=True)
