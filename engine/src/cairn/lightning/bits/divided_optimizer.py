"""Whether an optimizer computes the same for parts of a tensor as for the whole: needed where parameters are sharded.

It is tried on a small tensor, and on a part of its rows after the other:

    fused kernels        compute in another way where the number of values is not a multiple of a vector
    LAMB, Adafactor      add up squares of a whole parameter, Muon multiplies it with itself
    noise                is drawn for a whole parameter
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cairn.data.seeding import seeded

_ROWS, _COLUMNS, _STEPS = (9, 1, 13), 7, 3
"""Rows of each part: no part has a multiple of 2 values."""
_SETTINGS = (bool, int, float, str, type(None))


def why_not(optimizer: Optimizer) -> str:
    """Return why an optimizer cannot be divided; '' if it computes the same for parts.

    Args:
        optimizer: The optimizer. It is not changed.
    """
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if not group["params"]:
            continue
        plain = {**group, "foreach": False} if group.get("foreach", False) is None else group
        try:
            differs = _differs(optimizer, group, plain)
            is_choice = differs and plain is not group and not _differs(optimizer, plain, plain)
        except Exception as error:  # an optimizer that is built in another way than torch's
            return f"a step of {name} cannot be tried on parts of a tensor ({type(error).__name__}: {error})"
        if is_choice:
            return f"{name} computes other bits for a part of a parameter, unless it has foreach=False: set that"
        if differs and group.get("fused"):
            return f"{name} with fused=True computes other bits for a part of a parameter: use fused=False"
        if differs:
            return f"{name} computes something else for a part of a parameter than for the whole: use another optimizer"
    return ""


def _differs(optimizer: Optimizer, group: dict[str, Any], of_parts: dict[str, Any]) -> bool:
    """Whether the parts of a tensor, with options of their own, become another tensor than the whole.

    torch takes foreach only for tensors that are not sharded, if it may choose.
    """
    like, count = group["params"][0], sum(_ROWS)
    source = torch.Generator().manual_seed(0)
    values = [torch.randn(count, _COLUMNS, generator=source).to(like.device, like.dtype) for _ in range(_STEPS + 1)]
    whole = _stepped(optimizer, group, values)
    divided = zip(*(one.split(_ROWS) for one in values), strict=True)
    parts = [_stepped(optimizer, of_parts, list(rows)) for rows in divided]
    return any(not torch.equal(torch.cat([part[key] for part in parts]), value) for key, value in whole.items())


def _stepped(optimizer: Optimizer, group: dict[str, Any], values: list[Tensor]) -> dict[str, Tensor]:
    """Return a tensor after some steps, with the states that have its shape.

    Args:
        optimizer: The optimizer.
        group: Options of the parameter.
        values: The parameter, and its gradients.
    """
    twin = type(optimizer).__new__(type(optimizer))
    twin.__dict__.update({name: value for name, value in vars(optimizer).items() if type(value) in _SETTINGS})
    parameter = torch.nn.Parameter(values[0].clone())
    rate = group.get("lr")
    options = {**group, "params": [parameter], "lr": 0.01 if isinstance(rate, float | int) and not rate else rate}
    options.pop("param_names", None)
    if rate is None:
        del options["lr"]
    twin.__setstate__({"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": [options]})
    with seeded(0):
        for gradient in values[1:]:
            parameter.grad = gradient.clone()
            type(optimizer).step(twin)
    state = {name: value for name, value in twin.state[parameter].items() if isinstance(value, Tensor)}
    return {"": parameter.detach()} | {name: one for name, one in state.items() if one.shape == parameter.shape}
