"""The learning rate of a new run that starts in the middle of a schedule with other settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, OneCycleLR

_CLOSED_FORM = (LambdaLR, OneCycleLR, CyclicLR, CosineAnnealingWarmRestarts)
"""Schedulers whose `get_lr` depends on the number of steps only, and not on the current learning rate."""


def follow(optimizer: Optimizer, schedulers: Sequence[Any], ratios: Sequence[float]) -> None:
    """Set the learning rates to where the schedule would be, had it begun with its present settings.

    Args:
        optimizer: The optimizer; its groups and schedulers have their present settings.
        schedulers: The schedulers that act on it.
        ratios: For each parameter group, the configured learning rate, as a multiple of the earlier one.
    """
    rates = _closed_form(schedulers[0]) if len(schedulers) == 1 else None
    if rates is None or len(rates) != len(optimizer.param_groups):
        # A scheduler that multiplies the current rate, or one that reacts to a metric: only the scale is known.
        rates = [group["lr"] * ratio for group, ratio in zip(optimizer.param_groups, ratios, strict=False)]
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = float(rate)
    for scheduler in schedulers:
        if hasattr(scheduler, "_last_lr"):
            scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def ratio(made: Mapping[str, Any], changed: Mapping[str, tuple[Any, Any]]) -> float:
    """Return the configured learning rate of a group as a multiple of the earlier one; 1 if it is unknown.

    Args:
        made: Configured settings of the group.
        changed: Settings that have changed, with the earlier and the present value.
    """
    name = "initial_lr" if "initial_lr" in made else "lr"  # the first exists if a scheduler acts on the group
    before, now = changed.get(name, (1.0, 1.0))
    return float(now) / float(before) if before else 1.0


def _closed_form(scheduler: Any) -> Sequence[Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "use get_last_lr": outside of a step
        if isinstance(scheduler, _CLOSED_FORM):
            rates: Sequence[Any] = scheduler.get_lr()
        elif hasattr(scheduler, "_get_closed_form_lr"):
            rates = scheduler._get_closed_form_lr()
        else:
            return None
    return rates
