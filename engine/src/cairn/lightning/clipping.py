"""Clipping gradients by a norm that is computed in another way than torch does; they are scaled in torch's way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from cairn.lightning.saved import placed

_CLIP = "clip_grad_by_norm"
_SMALL = 1e-6
"""Added to a norm before it divides, as `torch.nn.utils.clip_grad_norm_` does."""

Norm = Callable[[Sequence[Tensor]], Tensor]
"""Returns the norm of gradients taken together."""


def install(plugin: Any, norm: Norm) -> None:
    """Let a precision plugin clip by this norm; one that has a way of its own keeps it."""
    if getattr(type(plugin), _CLIP) is getattr(Precision, _CLIP):
        setattr(plugin, _CLIP, lambda optimizer, most: clip(plugin.main_params(optimizer), most, norm))


def remove(plugin: Any) -> None:
    """Undo it."""
    vars(plugin).pop(_CLIP, None)


def clip(parameters: Iterable[Tensor], most: float, norm: Norm) -> None:
    """Scale gradients so that their norm is at most a number.

    Args:
        parameters: The parameters.
        most: The number.
        norm: Its norm. If gradients are sharded, every rank must call this.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:  # on all ranks
        return
    factor = torch.clamp(most / (norm(gradients) + _SMALL), max=1.0)
    for gradient in map(placed.local, gradients):
        gradient.detach().mul_(factor.to(gradient.device))
