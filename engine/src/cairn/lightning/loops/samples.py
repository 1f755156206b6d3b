"""The number of samples in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def num_samples(batch: Any) -> int:
    """Return the length of the first tensor in a batch; 1 if that is a scalar, and for a batch without any."""
    return _length(batch) or 1


def _length(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else 1
    if type(batch) in (list, tuple) and batch and isinstance(first := batch[0], Tensor):  # by far the usual case
        return first.shape[0] if first.ndim else 1
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((found for item in items if (found := _length(item)) is not None), None)
