"""The norm of gradients that are divided among the processes in several ways, which torch cannot add up.

Each rank adds the squares of what no other rank counts; the sum over all ranks is that of the whole gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from cairn.lightning.saved import block, placed


def is_needed(model: nn.Module) -> bool:
    """Whether the parameters of a model are on several meshes."""
    return len({item.device_mesh for item in model.parameters() if isinstance(item, DTensor)}) > 1


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together. Every rank must call this.

    Args:
        gradients: The gradients, at least one.
    """
    own = [placed.local(gradient.detach()) for gradient in gradients]
    is_double = any(gradient.dtype in (torch.float64, torch.complex128) for gradient in gradients)
    total = torch.zeros((), dtype=torch.float64 if is_double else torch.float32, device=own[0].device)
    for gradient, local in zip(gradients, own, strict=True):
        if _is_counted(gradient):
            total += torch.linalg.vector_norm(local, dtype=torch.promote_types(local.dtype, torch.float32)).square()
    distributed.all_reduce(total)
    return total.sqrt()


def _is_counted(gradient: Tensor) -> bool:
    return block.of(gradient).is_written if isinstance(gradient, DTensor) else distributed.get_rank() == 0
