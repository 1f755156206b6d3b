"""Rows of tensors of which each rank has some, such as those that FSDP2 shards: what this rank writes of them.

    rank 0   rows 0 and 1 of 5   --->   piece: the first bytes of the whole storage
    rank 1   rows 2 and 3        --->   piece: the bytes after them
    rank 2   row 4               --->   piece: the last bytes

With tensor parallelism, a rank may have some of the columns: its piece is a tile, see `tiles`.

Hooks of the user see tensors without data (`meta`) in place of the whole ones, which no rank has: reading a value fails
rather than gives a wrong one. The image refers to them by their places, see `ShardEncoder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cairn.errors import UnsafeStateError
from cairn.writing.sharded import cuts
from cairn.writing.sharded.deal import Deal, Piece, Place, bytes_of, layout, named_tensors, place_of
from cairn.writing.sharded.tiles import Tile


@dataclass(frozen=True)
class Rows:
    """Rows of one tensor, or a block of it.

    Attributes:
        whole: A contiguous tensor without data in its place, on the device `meta`.
        local: The rows of this rank, contiguous.
        first: Number of the first of them.
        tile: Where a block lies that is divided in other dimensions than the first; None: `local` are rows.
        is_written: Whether this rank writes them; False: another rank has the same ones.
    """

    whole: Tensor
    local: Tensor
    first: int
    tile: Tile | None = None
    is_written: bool = True


def deal(contents: Mapping[str, Any], rows: Sequence[Rows]) -> Deal:
    """Return what this rank writes; all ranks have the same tensors, in the same order.

    Args:
        contents: Contents of a checkpoint, with tensors without data in place of the whole ones.
        rows: What this rank has of them.

    Raises:
        UnsafeStateError: A hook has made something else of such a tensor, which no rank can compute.
    """
    if any(item.whole._version for item in rows):
        raise UnsafeStateError(
            "A hook changes weights or optimizer states of the checkpoint in place, which are divided among the "
            "processes, so that none of them has their values: change the parameters in a step instead."
        )
    known = {place_of(item.whole): item for item in rows}
    names: dict[Place, str] = {}
    for key in ("state_dict", "optimizer_states"):
        for name, tensor in named_tensors(contents.get(key), key):
            place = place_of(tensor)
            if tensor.is_meta and place in known and _is_whole(tensor, known[place].whole):
                names.setdefault(place, name)
    storages = {tensor_of.whole.untyped_storage()._cdata for place, tensor_of in known.items() if place in names}
    for key, value in contents.items():
        for name, tensor in named_tensors(value, key):
            if tensor.is_meta and tensor.untyped_storage()._cdata not in storages:
                raise UnsafeStateError(
                    f"{name} in the checkpoint is made of a tensor that is divided among the processes, so that none of"
                    f" them has its values: let a hook leave out whole tensors only, or save what a step has computed."
                )
    dealt = [(name, known[place]) for place, name in names.items()]
    pieces = [_piece(name, item) for name, item in dealt if item.is_written and item.local.numel()]
    tiles = [f"{name} {item.tile.row_bytes}" for name, item in dealt if item.tile is not None]
    way = "rows" if not tiles else f"tiles {tiles}"
    digest = layout(way, [name for name, _ in dealt], [item.whole.nbytes for _, item in dealt])
    return Deal(digest, pieces, names)


def _is_whole(tensor: Tensor, whole: Tensor) -> bool:
    return tensor.shape == whole.shape and tensor.stride() == whole.stride() and tensor.dtype == whole.dtype


def _piece(name: str, rows: Rows) -> Piece:
    if (tile := rows.tile) is not None:
        data = bytes_of(rows.local, cuts.Range(0, 0, rows.local.nbytes))
        return Piece(name, tile.first, rows.whole.nbytes, data, (tile.run_bytes, tile.row_bytes))
    first, end = cuts.rows(rows.whole.shape, rows.whole.element_size(), rows.first, len(rows.local))
    return Piece(name, first, rows.whole.nbytes, bytes_of(rows.local, cuts.Range(0, 0, end - first)))
