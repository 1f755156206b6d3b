"""Whether a training step takes the number of its batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any


def takes_index(step: Callable[..., Any]) -> bool | None:
    """Return whether Lightning passes `batch_idx` to a training step; None if its code alone does not say so.

    Lightning asks `inspect` before each batch, which takes 20 us. The code of a plain method says the same.

    Args:
        step: The method `training_step` of a module.
    """
    function = getattr(step, "__func__", None)
    # What a decorator leaves, such as `__wrapped__`, lies among the attributes of the function.
    if type(step) is not MethodType or type(function) is not FunctionType or vars(function):
        return None
    code = function.__code__
    names = code.co_varnames[1 : code.co_argcount]
    return len(names) >= 2 or "batch_idx" in names or bool(code.co_flags & inspect.CO_VARARGS)
