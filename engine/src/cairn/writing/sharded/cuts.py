"""Which bytes of which storages each rank writes: arithmetic only.

    storages    |---- 0 ----|-- 1 --|------------ 2 ------------|- 3 -|
    3 ranks     |<----- rank 0 ---->|<----- rank 1 ---->|<-- rank 2 ->|      a cut inside a storage is aligned

All ranks compute the same cuts from the same sizes, without asking each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

ALIGNMENT = 64
"""A cut inside a storage lies at a multiple of this, in bytes: no element and no line of a cache is cut in two."""


@dataclass(frozen=True)
class Range:
    """A part of one storage.

    Attributes:
        storage: Number of the storage.
        first: First byte in it.
        end: Byte after the last one.
    """

    storage: int
    first: int
    end: int


def even(sizes: Sequence[int], rank: int, world_size: int) -> list[Range]:
    """Cut storages that every rank has in full into nearly equal shares.

    Args:
        sizes: Sizes of the storages, in bytes.
        rank: Whose share to return.
        world_size: Number of ranks.

    Returns:
        The ranges of this rank, without empty ones. Those of all ranks together are all bytes, each once.
    """
    total = sum(sizes)
    begins, ends = total * rank // world_size, total * (rank + 1) // world_size
    found, at = [], 0
    for number, size in enumerate(sizes):
        first, end = _aligned(begins - at, size), _aligned(ends - at, size)
        if first < end:
            found.append(Range(number, first, end))
        at += size
    return found


def rows(shape: Sequence[int], itemsize: int, first_row: int, num_rows: int) -> tuple[int, int]:
    """Return the bytes of rows of a contiguous tensor, such as those that `Shard(0)` gives to a rank.

    Args:
        shape: Shape of the whole tensor.
        itemsize: Size of one element, in bytes.
        first_row: First row.
        num_rows: Number of rows; 0 for a rank that has none.

    Returns:
        First byte in the storage of the whole tensor, and the byte after the last one.

    Raises:
        ValueError: The tensor does not have these rows.
    """
    if not shape or not 0 <= first_row <= first_row + num_rows <= shape[0]:
        raise ValueError(f"a tensor of shape {tuple(shape)} has no rows {first_row} to {first_row + num_rows}")
    row_bytes = prod(shape[1:]) * itemsize
    return first_row * row_bytes, (first_row + num_rows) * row_bytes


def _aligned(cut: int, size: int) -> int:
    """Move a cut to a place inside a storage where one may be."""
    return size if cut >= size else max(0, cut) // ALIGNMENT * ALIGNMENT
