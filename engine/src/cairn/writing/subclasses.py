"""Subclasses of Tensor, which a checkpoint file holds as the plain tensors that they are made of.

    AdamW8bit's exp_avg    codes uint8, scale float32, qmap float32     taken apart by __tensor_flatten__
    a subclass of torch    the same numbers, with methods of its own    as_subclass

torch asks a subclass that wraps other tensors for `__tensor_flatten__` and `__tensor_unflatten__`: quantized weights,
and the 8- and 4-bit states of optimizers, have them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Parts = tuple[list[Any], dict[str, Any]]
"""How to put a tensor together again, and the plain tensors, by name."""

_OF_TORCH = {"_is_param"}
"""Attributes that torch adds to a parameter."""


def apart(value: Tensor) -> Parts | None:
    """Take a tensor apart; None if its class does not say how, or if it has attributes of its own.

    Args:
        value: A tensor of a subclass.
    """
    kind = type(value)
    if callable(getattr(value, "__tensor_flatten__", None)):
        names, context = value.__tensor_flatten__()  # type: ignore[attr-defined]
        layout = [list(value.shape), list(value.stride())]
        return ["parts", context, *layout], {name: getattr(value, name) for name in names}
    if not vars(value).keys() <= _OF_TORCH or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return None
    return ["whole"], {"tensor": value.detach().as_subclass(Tensor)}


def together(kind: Any, how: list[Any], parts: dict[str, Any]) -> Tensor:
    """Return a tensor of a subclass, put together from plain tensors.

    Args:
        kind: The subclass.
        how: What `apart` has returned with the parts.
        parts: The plain tensors.

    Raises:
        LookupError: The class cannot be put together in this way any more.
    """
    way, *more = how
    if way == "whole":
        whole: Tensor = parts["tensor"].as_subclass(kind)
        return whole
    if not callable(getattr(kind, "__tensor_unflatten__", None)):
        raise LookupError(f"{kind.__name__} has no __tensor_unflatten__ any more")
    context, shape, stride = more
    made: Tensor = kind.__tensor_unflatten__(parts, context, torch.Size(shape), tuple(stride))
    return made
