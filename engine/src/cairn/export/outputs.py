"""What a model returns for a batch, and whether two models return the same."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cairn.data.seeding import seeded
from cairn.errors import ModelError

_TOLERANCES = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
    torch.complex64: 1e-3,
    torch.complex128: 1e-6,
}
"""Largest difference to an output of this type, relative to the largest value in it; of others: none."""
_SMALLEST = 1e-6
"""Outputs whose values are all smaller are compared with this."""


def of(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that a model returns, in order. Its random numbers are the same each time.

    Args:
        call: The model.
        args: Positional arguments; the model gets copies, because it may change them.
        kwargs: Arguments by name.

    Raises:
        ModelError: It returns none.
    """
    with torch.no_grad(), seeded(0):
        found = list(tensors(call(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs)))))
    if not found:
        raise ModelError("forward returns no tensor")
    return found


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested outputs, in order."""
    if isinstance(value, Tensor):
        return [value.detach()]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, item.name) for item in dataclasses.fields(value)]
    return [item for part in value for item in tensors(part)] if isinstance(value, list | tuple) else []


def are_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether tensors are equal in every bit, type and shape."""
    return len(one) == len(other) and all(map(_same_bits, one, other))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_bytes(one), _bytes(other))


def _bytes(value: Tensor) -> Tensor:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference between outputs that are computed in another way, relative to their size.

    Args:
        expected: The outputs of the model.
        found: Those to compare.

    Returns:
        The largest difference, divided by the largest absolute value of its output.

    Raises:
        ModelError: They differ by more than rounding explains; the message says where.
    """
    if len(expected) != len(found):
        raise ModelError(f"it has {len(found)} outputs, and the model has {len(expected)}")
    largest = 0.0
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        largest = max(largest, _difference(f"output {number}", one.cpu(), other.cpu()))
    return largest


def _difference(name: str, one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        raise ModelError(f"{name} has the shape {tuple(other.shape)}, and that of the model is {tuple(one.shape)}")
    tolerance = _TOLERANCES.get(one.dtype, 0.0)
    wide = torch.complex128 if one.is_complex() else torch.float64
    one, other = (value.to(wide) for value in (one, other))
    same = (one == other) | (one.isnan() & other.isnan())
    if bool(same.all()):
        return 0.0
    apart = (one - other).abs()[~same]
    finite = one.abs()[one.isfinite()]
    relative = float(apart.max()) / max(_SMALLEST, float(finite.max()) if finite.numel() else 0.0)
    if not relative <= tolerance:  # also not a number
        raise ModelError(f"{name} differs by {relative:.2g} of its largest value, and {tolerance:g} is the limit")
    return relative
