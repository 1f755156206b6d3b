"""A key that two objects have in common only if they behave alike: classes, functions, plain values and shapes."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch

_DEEPEST, _MOST = 6, 200


def described(value: Any, depth: int = 0) -> Any:
    """Return the key of an object; an object that is not known well enough has a key of its own.

    Args:
        value: Any object.
        depth: How many objects hold it.
    """
    if value is None or isinstance(value, bool | int | float | str | bytes | type | FunctionType | BuiltinFunctionType):
        return type(value), value
    if isinstance(value, torch.Tensor | np.ndarray):
        return type(value), value.dtype, tuple(value.shape)
    if depth > _DEEPEST:
        return object()
    if isinstance(value, list | tuple | range) and len(value) <= _MOST:
        return type(value), *(described(item, depth + 1) for item in value)
    if isinstance(value, dict) and len(value) <= _MOST and all(type(key) in (str, int) for key in value):
        return dict, *((key, described(item, depth + 1)) for key, item in value.items())
    attributes = getattr(value, "__dict__", None)
    if type(attributes) is dict and not any(vars(kind).get("__slots__") for kind in type(value).__mro__):
        return type(value), described(attributes, depth + 1)
    return object()
