"""Which block of a sharded tensor this rank has: rows with FSDP2, rows and columns with tensor parallelism, too.

mesh (data_parallel, tensor_parallel) = 2 x 2, a tensor of 8 rows and 4 columns
(_StridedShard(0), Shard(0))    rank 0: rows 0-1   rank 1: 4-5   rank 2: 2-3   rank 3: 6-7
(Shard(0), Shard(1))            rank 0: rows 0-3, columns 0-1    rank 1: rows 0-3, columns 2-3    ...
(Shard(0), Replicate())         rank 0: rows 0-3   rank 1: the same, and does not write them
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from cairn.writing.sharded import tiles
from cairn.writing.sharded.tiles import Tile


@dataclass(frozen=True)
class Block:
    """A block of a tensor.

    Attributes:
        offsets: Where it begins in each dimension.
        sizes: Its size in each dimension.
        dim: The last dimension that is divided; 0 if none is.
        is_written: Whether this rank writes it; False: another rank has the same one.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dim: int
    is_written: bool

    def of(self, tensor: Tensor) -> Tensor:
        """Return a view of this block of a whole tensor."""
        return tiles.cut(tensor, self.offsets, self.sizes)

    def tile(self, tensor: Tensor) -> Tile | None:
        """Return which bytes of a whole tensor this block is, if it is divided in other dimensions than the first."""
        if not self.dim:
            return None
        return tiles.tile(tensor.shape, tensor.element_size(), self.offsets, self.sizes, self.dim)


def of(tensor: DTensor) -> Block:
    """Return the block of a sharded tensor that this rank has."""
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "a rank outside of the mesh has nothing of the tensor"
    placements = tuple(tensor.placements)
    return _of(tuple(tensor.shape), tensor.device_mesh, placements, tuple(coordinate), distributed.get_rank())


@functools.lru_cache(maxsize=1024)  # a save asks for each tensor, and few of them differ
def _of(
    shape: tuple[int, ...],
    mesh: DeviceMesh,
    placements: tuple[Placement, ...],
    coordinate: tuple[int, ...],
    rank: int,  # meshes of several ranks are equal to torch, although they hold other ones
) -> Block:
    offsets, sizes = [0] * len(shape), list(shape)
    # fully_shard divides what tensor parallelism has left to a rank: `_StridedShard` says that it comes last.
    order = sorted(range(mesh.ndim), key=lambda number: isinstance(placements[number], _StridedShard))
    for number in order:
        if (dim := divided_dim(placements[number])) is not None:
            chunk = -(-sizes[dim] // mesh.size(number))  # as Tensor.chunk: the last ones may be smaller, or empty
            first = min(coordinate[number] * chunk, sizes[dim])
            offsets[dim], sizes[dim] = offsets[dim] + first, min(chunk, sizes[dim] - first)
    # Ranks that a tensor is repeated on: along the mesh, and as many meshes as it takes to hold all ranks.
    is_first = all(coordinate[number] == 0 for number, item in enumerate(placements) if divided_dim(item) is None)
    dims = [dim for item in placements if (dim := divided_dim(item)) is not None]
    is_written = is_first and bool((mesh.mesh == 0).any())
    return Block(tuple(offsets), tuple(sizes), max(dims, default=0), is_written)


def divided_dim(placement: Placement) -> int | None:
    """Return the dimension that a placement divides; None: it repeats the tensor."""
    return placement.dim if isinstance(placement, Shard | _StridedShard) else None


def divided_dims(tensor: DTensor) -> set[int]:
    """Return the dimensions of a tensor that are divided."""
    return {dim for item in tensor.placements if (dim := divided_dim(item)) is not None}


def is_divided(tensor: DTensor) -> bool:
    """Whether each rank has a part of a tensor."""
    return bool(divided_dims(tensor))


def is_repeated(tensor: DTensor) -> bool:
    """Whether several ranks have the same part of a tensor."""
    mesh = tensor.device_mesh
    along = (mesh.size(number) for number, item in enumerate(tensor.placements) if divided_dim(item) is None)
    return any(size > 1 for size in along) or mesh.size() < distributed.get_world_size()


def why_not(tensor: DTensor) -> str:
    """Return why the blocks of a tensor cannot be saved; empty: they can."""
    if not all(divided_dim(item) is not None or type(item) is Replicate for item in tensor.placements):
        return "only Shard and Replicate can be saved"
    dims: Sequence[int] = sorted(divided_dims(tensor))
    if len(dims) > 2 or (len(dims) == 2 and prod(tensor.shape[: dims[0]]) > 1):
        return "only one dimension besides the first can be divided"
    if of(tensor).sizes != tuple(tensor.to_local().shape):
        return "its parts have other sizes than those of torch.chunk"
    return ""
