"""The norm of all gradients, in an order of additions that does not depend on how they are sharded.

    squares of a row     added up in halves: no shard cuts a row
    sums of all rows     of all parameters in their order, on all processes; added up in halves as well

Torch adds up a tensor in an order that depends on its shape, and so on the number of processes if that is a shard.
Halves are added up element by element, which is the same for any shape, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor, Shard

from cairn.lightning.saved import placed


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of gradients taken together. If they are sharded, every process must call this.

    Args:
        gradients: Whole, or sharded by rows.
    """
    whole = _rows_of_all([_sums_of_rows(placed.local(one)) for one in gradients], gradients)
    return _folded(torch.cat(whole)[None])[0].sqrt()


def _sums_of_rows(value: Tensor) -> Tensor:
    value = value.detach()
    value = value if value.dtype == torch.float64 else value.float()
    rows = value.reshape(value.shape[0], math.prod(value.shape[1:])) if value.ndim else value.reshape(1, 1)
    return _folded(rows.square())


def _folded(values: Tensor) -> Tensor:
    """Return the sum of each row of a matrix."""
    if values.shape[1] == 0:
        return values.new_zeros(len(values))
    while (number := values.shape[1]) > 1:
        half = number // 2
        added = values[:, :half] + values[:, half : 2 * half]
        values = torch.cat([added, values[:, 2 * half :]], 1) if number % 2 else added
    return values[:, 0]


def _rows_of_all(own: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Return a number for each row of each tensor, on all processes.

    Args:
        own: Those of the rows of this process.
        like: The tensors, some of which are sharded.
    """
    device, kind = own[0].device, torch.float64 if any(one.dtype == torch.float64 for one in own) else torch.float32
    found = [one.to(device, kind) for one in own]
    sharded = [number for number, one in enumerate(like) if _is_divided(one)]
    if not sharded:
        return found
    mesh = like[sharded[0]].device_mesh
    chunks = [-(-like[number].shape[0] // mesh.size()) for number in sharded]
    sent = torch.zeros(sum(chunks), dtype=kind, device=device)
    for part, number in zip(sent.split(chunks), sharded, strict=True):
        part[: len(found[number])] = found[number]
    of_ranks = [torch.empty_like(sent) for _ in range(mesh.size())]
    dist.all_gather(of_ranks, sent, group=mesh.get_group())
    for number, parts in zip(sharded, zip(*(one.split(chunks) for one in of_ranks), strict=True), strict=True):
        found[number] = torch.cat(parts)[: like[number].shape[0]]
    return found


def _is_divided(value: Tensor) -> bool:
    if not isinstance(value, DTensor) or value.device_mesh.size() == 1:
        return False
    return any(isinstance(placement, Shard) for placement in value.placements)
