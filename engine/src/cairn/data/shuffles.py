"""How an epoch is shuffled. A run keeps the way with which it began, and each checkpoint names it.

The name is part of the file format. A version of Cairn that does not know it refuses the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from cairn.data.permutation import Numbers, Permutation
from cairn.data.seeding import mix_seed

At: TypeAlias = Callable[[Numbers], Numbers]
"""Returns the indices of samples at positions of an epoch."""


def _permuted(num_samples: int, seed: int, turn: int) -> At:
    return Permutation(num_samples, mix_seed(seed, turn, num_samples)).at


def _shuffled(num_samples: int, seed: int, turn: int) -> At:
    # The way of Cairn 0.1: the whole order is drawn when an epoch begins, in 4 s and 0.4 GB for 100 million samples.
    generator = torch.Generator().manual_seed(mix_seed(seed, turn))
    dtype = torch.int32 if num_samples < 2**31 else torch.int64
    return torch.randperm(num_samples, generator=generator, dtype=dtype).numpy().__getitem__


WAYS: dict[str, Callable[[int, int, int], At]] = {"shuffled": _shuffled, "permuted": _permuted}
"""For each name, a function of the number of samples, the seed and the turn."""
OLDEST, *_, NEWEST = WAYS
"""The way of a run whose checkpoints name none, and of a new run."""

_of_run = NEWEST


def of_run() -> str:
    """Return the way of the run of this process."""
    return _of_run


def begin_run(way: str | None = None) -> None:
    """Set the way of the run of this process, for all loaders that have not loaded a position with another one.

    Args:
        way: One of `WAYS`; None: the newest.
    """
    global _of_run
    _of_run = way or NEWEST
