"""Which processes get the same batches: those that compute one batch together, with tensor parallelism.

process                     0  1  2  3
2 compute a batch together  0  0  1  1      the number by which batches and samples are divided
"""

from __future__ import annotations

from typing import Any

import torch

_together: tuple[Any, int] | None = None
"""The processes of a fit, and how many of them get the same batches."""


def compute_together(number: int) -> None:
    """Give the same batches to neighbouring processes, as long as this process group exists.

    Args:
        number: How many of them compute one batch; 1: each has batches of its own.
    """
    global _together
    _together = (torch.distributed.group.WORLD, number) if number > 1 else None


def num_together() -> int:
    """Return how many processes get the same batches."""
    if _together is None or not torch.distributed.is_initialized():
        return 1
    group, number = _together
    return number if group is torch.distributed.group.WORLD else 1


def share(rank: int, world_size: int) -> tuple[int, int]:
    """Return the number by which a process gets batches, and how many numbers there are.

    Args:
        rank: Rank of the process.
        world_size: Number of processes.
    """
    number = num_together()
    return rank // number, world_size // number
