"""A checkpoint of shards of which each rank reads the rows that are its own: what it needs is joined, and no more.

contents        as of a single file, but tensors without data (`meta`) where several shards have a part of the state
                of an optimizer: most of a checkpoint
rows, block, whole     their values
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from cairn.writing.sharded import cuts
from cairn.writing.sharded.assemble import Shards
from cairn.writing.sharded.tiles import cut, tile

_PREFIX = "optimizer_states/"


class Parted:
    """The contents of a checkpoint, and the values that they lack.

    Args:
        shards: Its shards.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._names: dict[int, str] = {}
        self._kept: list[torch.UntypedStorage] = []
        """Storages without data, whose identities are not given to others meanwhile."""
        self.contents = shards.contents(stand_in=self._stand_in)

    def joined(self) -> dict[str, Any]:
        """Return the contents with all values."""
        return self._shards.contents()

    def knows(self, tensor: Tensor) -> bool:
        """Whether the values of a tensor are to be read here."""
        return tensor.is_meta and tensor.untyped_storage()._cdata in self._names

    def rows(self, tensor: Tensor, first: int, number: int) -> Tensor:
        """Read rows of a tensor into new memory.

        Args:
            tensor: A tensor without data.
            first: Number of the first row.
            number: How many.
        """
        if not tensor.is_contiguous():
            return self.whole(tensor)[first : first + number].clone()
        begin, end = cuts.rows(tensor.shape, tensor.element_size(), first, number)
        offset = int(tensor.storage_offset()) * tensor.element_size()
        name = self._names[tensor.untyped_storage()._cdata]
        data = self._shards.read(name, offset + begin, offset + end).clone()
        return data.view(tensor.dtype).view(number, *tensor.shape[1:]) if prod(data.shape) else _empty(tensor)

    def block(self, tensor: Tensor, offsets: Sequence[int], sizes: Sequence[int], dim: int) -> Tensor:
        """Read a block of a tensor into new memory.

        Args:
            tensor: A tensor without data.
            offsets: Where the block begins in each dimension.
            sizes: Its size in each dimension.
            dim: The last dimension that is divided.
        """
        name = self._names[tensor.untyped_storage()._cdata]
        if not tensor.is_contiguous() or tensor.nbytes != self._shards.num_bytes[name]:
            return cut(self.whole(tensor), offsets, sizes).clone()
        if not prod(sizes):
            return torch.empty([*sizes], dtype=tensor.dtype)
        data = self._shards.tile(name, tile(tensor.shape, tensor.element_size(), offsets, sizes, dim))
        return data.clone().view(tensor.dtype).view([*sizes])

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor with its values."""
        storage = self._shards.storage(self._names[tensor.untyped_storage()._cdata])
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())

    def _stand_in(self, name: str) -> torch.UntypedStorage:
        if not name.startswith(_PREFIX):
            return self._shards.storage(name)
        storage = torch.UntypedStorage(self._shards.num_bytes[name], device="meta")
        self._names[storage._cdata] = name
        self._kept.append(storage)
        return storage


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty((0, *tensor.shape[1:]), dtype=tensor.dtype)
