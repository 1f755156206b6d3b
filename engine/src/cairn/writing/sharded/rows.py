"""Rows of tensors of which each rank has some, such as those that FSDP2 shards: what this rank writes of them.

    rank 0   rows 0 and 1 of 5   --->   piece: the first bytes of the whole storage
    rank 1   rows 2 and 3        --->   piece: the bytes after them
    rank 2   row 4               --->   piece: the last bytes

The image of the checkpoint refers to the whole tensors, which no rank has: others stand for them, without their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cairn.writing.sharded import cuts
from cairn.writing.sharded.deal import Deal, Piece, bytes_of, layout, named_tensors, place_of


@dataclass(frozen=True)
class Rows:
    """Rows of one tensor.

    Attributes:
        whole: Stands for the whole tensor, see `stand_in`.
        local: The rows of this rank, contiguous.
        first: Number of the first of them.
    """

    whole: Tensor
    local: Tensor
    first: int


def stand_in(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor with memory that is never read or written, so that the system does not provide it.

    Args:
        shape: Its shape.
        dtype: Its type.
    """
    empty = torch.empty(0, dtype=dtype)
    num_bytes = torch.Size(shape).numel() * empty.element_size()
    # Not `torch.empty`, which fills the memory if torch is to be deterministic.
    return empty.set_(torch.UntypedStorage(num_bytes), 0, shape)  # type: ignore[call-overload]


def deal(contents: Mapping[str, Any], rows: Sequence[Rows]) -> Deal:
    """Return what this rank writes; all ranks have the same tensors, in the same order.

    Args:
        contents: Contents of a checkpoint, with the tensors that stand for the whole ones.
        rows: What this rank has of them.
    """
    by_place = {place_of(item.whole): item for item in rows}
    found: dict[str, Rows] = {}
    named = {}
    for key in ("state_dict", "optimizer_states"):
        for name, tensor in named_tensors(contents.get(key), key):
            place = place_of(tensor)
            if place in by_place and place not in named:
                named[place] = name
                found[name] = by_place[place]
    pieces = [_piece(name, item) for name, item in found.items() if item.local.numel()]
    sizes = [item.whole.nbytes for item in found.values()]
    return Deal(layout("rows", [*found], sizes), pieces, named)


def _piece(name: str, rows: Rows) -> Piece:
    shape = rows.whole.shape
    first, end = cuts.rows(shape, rows.whole.element_size(), rows.first, len(rows.local))
    return Piece(name, first, rows.whole.nbytes, bytes_of(rows.local, cuts.Range(0, 0, end - first)))
