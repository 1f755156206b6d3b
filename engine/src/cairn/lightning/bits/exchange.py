"""A sum over all processes in the order of the tree, and values of all virtual ranks.

    roots of process r   n numbers each     cut into P chunks
    all_to_all           chunk c of all roots goes to process c, which adds them up in the order of the tree
    all_gather           the sums of all chunks go to all processes

The volume is that of an all_reduce over a ring, times the number of roots: one, for powers of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from cairn.lightning.bits.tree import Layout, Node, reduced

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""torch 2.13 has renamed it."""


def add(left: Tensor, right: Tensor) -> Tensor:
    """Return the sum of two tensors in the memory of the first one."""
    return left.add_(right)


def summed(roots: Mapping[Node, Tensor], layout: Layout) -> Tensor:
    """Return the sum over all virtual ranks, on all processes: an all-reduce in the order of the tree.

    Args:
        roots: Sums of this process by node, as flat tensors of one size; may be overwritten.
        layout: Which virtual ranks each process plays.
    """
    mine = scattered(roots, layout)
    if layout.world_size == 1:
        return mine
    return all_gather(mine, layout.world_size).flatten()[: next(iter(roots.values())).numel()]


def all_gather(mine: Tensor, world_size: int) -> Tensor:
    """Return a flat tensor of each process, in a row for each of them."""
    found = mine.new_empty(world_size, mine.numel())
    _all_gather(found.view(-1), mine.contiguous())
    return found


def scattered(roots: Mapping[Node, Tensor], layout: Layout) -> Tensor:
    """Return the part of this process in the sum over all virtual ranks: a reduce-scatter in the order of the tree.

    Args:
        roots: See `summed`.
        layout: See `summed`.
    """
    num_virtual, world_size = layout.num_virtual, layout.world_size
    if world_size == 1:
        (found,) = reduced(roots, num_virtual, add).values()
        return found
    own = list(roots.values())
    chunk = -(-own[0].numel() // world_size)
    sent = own[0].new_zeros(world_size, len(own), chunk)
    for number, root in enumerate(own):
        for to, part in enumerate(root.split(chunk)):
            sent[to, number, : part.numel()] = part
    nodes = [layout.roots(rank) for rank in range(world_size)]
    counts = [len(found) * chunk for found in nodes]
    received = own[0].new_empty(sum(counts))
    dist.all_to_all_single(received, sent.flatten(), counts, [len(own) * chunk] * world_size)
    chunks = dict(zip((node for found in nodes for node in found), received.split(chunk), strict=True))
    (mine,) = reduced(chunks, num_virtual, add).values()
    return mine


def gathered(value: Any, layout: Layout) -> list[Any]:
    """Return a plain value of each process, in their order."""
    if layout.world_size == 1:
        return [value]
    found: list[Any] = [None] * layout.world_size
    dist.all_gather_object(found, value)
    return found


def from_first(tensors: Sequence[Tensor], layout: Layout) -> None:
    """Copy tensors of process 0 into those of the others."""
    if layout.world_size > 1:
        for tensor in tensors:
            value = tensor.contiguous()
            dist.broadcast(value, 0)
            if value is not tensor and not torch.equal(value, tensor):
                tensor.copy_(value)
