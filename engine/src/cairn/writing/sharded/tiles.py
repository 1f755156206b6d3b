"""Blocks of a tensor that are not one range of its bytes, such as some of its columns: arithmetic only.

3 rows of 6 elements        block: rows 1 and 2, columns 2 and 3
    . . . . . .             first      byte of the first x
    . . x x . .             run        bytes of "x x"
    . . x x . .             row        bytes of ". . x x . .": from one run to the next
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Runs of bytes of a storage, all of one length, in rows that follow each other.

    Attributes:
        first: First byte in the storage.
        run_bytes: Length of a run.
        row_bytes: Distance from one run to the next, which divides the size of the storage.
        num_rows: Number of runs.
    """

    first: int
    run_bytes: int
    row_bytes: int
    num_rows: int

    @property
    def columns(self) -> tuple[int, int]:
        """First byte in each row, and the byte after the last one."""
        return self.first % self.row_bytes, self.first % self.row_bytes + self.run_bytes

    @property
    def rows(self) -> tuple[int, int]:
        """First row, and the row after the last one."""
        return self.first // self.row_bytes, self.first // self.row_bytes + self.num_rows

    def of(self, storage: Tensor) -> Tensor:
        """Return the block of a whole storage.

        Args:
            storage: Its bytes.
        """
        return storage.view(-1, self.row_bytes)[slice(*self.rows), slice(*self.columns)]


def tile(shape: Sequence[int], itemsize: int, offsets: Sequence[int], sizes: Sequence[int], dim: int) -> Tile:
    """Return the bytes of a block of a contiguous tensor.

    Args:
        shape: Shape of the whole tensor.
        itemsize: Size of one element, in bytes.
        offsets: Where the block begins in each dimension.
        sizes: Its size in each dimension.
        dim: The last dimension that is divided. The rows of the tile are the elements of those before it.

    Raises:
        ValueError: The rows of the block do not follow each other.
    """
    if not follow(shape[:dim], sizes[:dim]):
        raise ValueError(f"rows of a block of {tuple(sizes)} in {tuple(shape)} do not follow each other")
    inner = prod(shape[dim + 1 :]) * itemsize
    row = sum(offset * prod(shape[n + 1 : dim]) for n, offset in enumerate(offsets[:dim]))
    row_bytes = shape[dim] * inner
    return Tile(row * row_bytes + offsets[dim] * inner, sizes[dim] * inner, row_bytes, prod(sizes[:dim]))


def cut(tensor: Tensor, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Return a view of a block of a tensor.

    Args:
        tensor: The whole tensor.
        offsets: Where the block begins in each dimension.
        sizes: Its size in each dimension.
    """
    for dim, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        tensor = tensor.narrow(dim, offset, size)
    return tensor


def follow(shape: Sequence[int], sizes: Sequence[int]) -> bool:
    """Return whether the elements of a block of a contiguous tensor follow each other without a gap.

    Args:
        shape: Shape of the whole tensor.
        sizes: Size of the block in each dimension.
    """
    divided = [dim for dim, size in enumerate(sizes) if size != shape[dim]]
    return not divided or prod(sizes[: divided[-1]]) <= 1


def are_whole(tiles: Iterable[Tile], num_bytes: int) -> bool:
    """Return whether tiles have each byte of a storage once: they divide rows and columns independently.

    Args:
        tiles: The tiles.
        num_bytes: Size of the storage.
    """
    found = list(tiles)
    row_bytes = found[0].row_bytes
    by_columns: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for item in found:
        by_columns.setdefault(item.columns, []).append(item.rows)
    return (
        num_bytes % row_bytes == 0
        and all(item.row_bytes == row_bytes for item in found)
        and _divide(by_columns, row_bytes)
        and all(_divide(rows, num_bytes // row_bytes) for rows in by_columns.values())
    )


def _divide(ranges: Iterable[tuple[int, int]], end: int) -> bool:
    found = sorted(ranges)
    return [first for first, _ in found] == [0, *(last for _, last in found[:-1])] and found[-1][1] == end
