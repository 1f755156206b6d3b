"""The norm of gradients that are divided among the processes in several ways, which torch cannot add up.

Each rank adds the squares of what no other rank counts; the sum over all ranks is that of the whole gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from cairn.lightning.saved import block

_SMALL = 1e-6
"""Added to a norm before it divides, as torch does."""


def is_needed(model: nn.Module) -> bool:
    """Whether the parameters of a model are on several meshes."""
    return len({item.device_mesh for item in model.parameters() if isinstance(item, DTensor)}) > 1


def install(plugin: Any) -> None:
    """Let a precision plugin clip by this norm."""
    plugin.clip_grad_by_norm = lambda optimizer, most: clip(plugin.main_params(optimizer), most)


def remove(plugin: Any) -> None:
    """Undo it."""
    vars(plugin).pop("clip_grad_by_norm", None)


def clip(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scale gradients so that their norm is at most a number. Every rank must call this.

    Args:
        parameters: The parameters.
        most: The number.

    Returns:
        The norm that they had.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    found = norm(gradients)
    factor = torch.clamp(most / (found + _SMALL), max=1.0)
    for gradient in gradients:
        _local(gradient).mul_(factor.to(gradient.dtype))
    return found


def norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients together. Every rank must call this.

    Args:
        gradients: The gradients.
    """
    found = list(gradients)
    if not found:  # on all ranks
        return torch.zeros(())
    counted = [_local(gradient) for gradient in found if _is_counted(gradient)]
    is_double = any(gradient.dtype in (torch.float64, torch.complex128) for gradient in found)
    total = torch.zeros((), dtype=torch.float64 if is_double else torch.float32, device=_local(found[0]).device)
    for local in counted:
        total += torch.linalg.vector_norm(local, dtype=torch.promote_types(local.dtype, torch.float32)).square()
    distributed.all_reduce(total)
    return total.sqrt()


def _is_counted(gradient: Tensor) -> bool:
    return block.of(gradient).is_written if isinstance(gradient, DTensor) else distributed.get_rank() == 0


def _local(gradient: Tensor) -> Tensor:
    return gradient.detach().to_local() if isinstance(gradient, DTensor) else gradient
