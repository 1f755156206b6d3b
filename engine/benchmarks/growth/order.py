"""Curves over the number of samples in a shuffled epoch."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth.curve import Curve, clock
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
    begin = clock()
    for _ in range(32_000):
        next(indices)
    return clock() - begin


def _first_batch(size: int, batch: int) -> float:
    next(iter(_loader(64)))  # imports of torch
    loader = _loader(size)
    begin = clock()
    loader.load_state_dict(loader.state_dict() | {"epoch": 3, "batch": batch})
    next(iter(loader))
    return clock() - begin


def _loader(size: int) -> DataLoader:
    return DataLoader(range(size), 32, shuffle=True, seeded_items=False)  # type: ignore[arg-type]  # all that it needs


_OF = "samples"
CURVES = (
    Curve("order, epoch", "a shuffled epoch to its first batch", _OF, SIZES, epoch, 0.1),
    Curve("order, resume", "a resume inside an epoch to its next batch", _OF, SIZES, resume, 0.1),
    Curve("order, batches", "the indices of 1,000 batches of 32", _OF, SIZES, thousand_batches),
    Curve("order, as in 0.1", "a resume in the way of version 0.1", _OF, DRAWN_SIZES, drawn),
)
