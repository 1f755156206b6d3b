"""Limits of a short run: what Lightning's arguments become, so that a few batches show everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shortened(
    values: Mapping[str, Any], epochs: int | None, batches: int | None, val_batches: int | None
) -> dict[str, Any]:
    """Return the arguments of a Trainer that have to change, with their new values.

    Args:
        values: Arguments of the Trainer by name.
        epochs: Maximum number of epochs; None: no limit of ours.
        batches: Maximum number of training batches in an epoch; None: no limit of ours.
        val_batches: Maximum number of batches of a validation; None: no limit of ours.
    """
    new: dict[str, Any] = {}
    if epochs is not None:
        now = values.get("max_epochs")
        new["max_epochs"] = epochs if now in (None, -1) else min(now, epochs)
        if values.get("min_epochs") is not None:
            new["min_epochs"] = min(values["min_epochs"], epochs)
        every = values.get("check_val_every_n_epoch", 1)
        new["check_val_every_n_epoch"] = None if every is None else min(every, max(1, epochs // 2))
    if batches is not None:
        new["limit_train_batches"] = _fewer(values.get("limit_train_batches"), batches)
        new["val_check_interval"] = _interval(values, batches)
    if val_batches is not None:
        new["limit_val_batches"] = _fewer(values.get("limit_val_batches"), val_batches)
    # 1 batch and 1.0, all batches, are equal numbers of different types.
    return {
        name: value
        for name, value in new.items()
        if value != values.get(name) or type(value) is not type(values.get(name))
    }


def _fewer(now: Any, most: int) -> Any:
    """Return a limit of batches. 0 means none, and a share of the data becomes a number."""
    if now == 0:
        return now
    return min(now, most) if isinstance(now, int) else most


def _interval(values: Mapping[str, Any], batches: int) -> Any:
    """Return a validation interval that the limit of batches leaves possible."""
    now = values.get("val_check_interval", 1.0)
    if isinstance(now, int):
        across_epochs = values.get("check_val_every_n_epoch", 1) is None
        return min(now, max(1, batches - 1 if across_epochs else batches // 2)) if now > batches else now
    # Any other value except a share of the epoch is a time, which differs between two runs.
    return now if isinstance(now, float) else max(1, batches // 2)
