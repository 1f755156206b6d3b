"""Parameters and attributes that batches change: a process works on as many batches as it has virtual ranks.

A teacher that follows the model by a moving average in `training_step` or `on_train_batch_end` would take 12 steps in a
global batch on one process, and 6 on two. It is noticed in the first global batch in which a process has several ones.
So is a number that batches count or average in an attribute: it may be a mere display, so that is a warning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cairn.errors import ConfigError
from cairn.lightning.reading import code, modules

_CLOCK_S = 300.0
"""A number this close to a clock is a time, which a display needs."""


class Unchanged:
    """The parameters and attributes of a module, and those of callbacks, during its first global batch.

    Args:
        module: The module.
        callbacks: Of the trainer; those of Lightning count nothing that training depends on.
    """

    def __init__(self, module: nn.Module, callbacks: Sequence[Callback] = ()) -> None:
        self._module = module
        self._callbacks = [one for one in callbacks if not code.is_library(type(one))]
        self._before: dict[str, int] | None = None
        self._attributes: dict[str, str] = {}
        self._is_done = False

    def check(self, number: int, is_last: bool = False) -> None:
        """Compare parameters and attributes with those that the second batch began with.

        What the first one changes may be the same on each process, such as weights that it clips.

        Args:
            number: Number of the batch among those of this process in their global batch.
            is_last: Whether it has ended, and is the last one.

        Raises:
            ConfigError: One of them differs.
        """
        if self._is_done or not number:
            return
        found = self._sums()
        before = self._before or found
        if changed := [name for name, value in found.items() if before.get(name, value) != value]:
            raise ConfigError(
                f"The parameter {changed[0]} changes in a batch, by training_step or a hook such as on_train_batch_end,"
                f" and elastic='bits' gives each process another number of batches: change it in on_before_zero_grad,"
                f" which is called once in a global batch, or use elastic='samples'.",
                parameter="elastic",
            )
        if self._before is None:
            self._attributes = self._numbers()
        elif changed := [name for name, value in self._numbers().items() if self._attributes.get(name, value) != value]:
            self._attributes = {}
            rank_zero_warn(
                f"{', '.join(changed[:5])}: changes in each batch, and elastic='bits' gives each process another number"
                f" of batches. If the training depends on it, use global_step or a hook of the step, or keep it in a"
                f" buffer (register_buffer), which follows virtual rank 0."
            )
        self._before, self._is_done = before, is_last

    def _numbers(self) -> dict[str, str]:
        """Return the public attributes that are plain numbers, as text: NaN is equal to itself."""
        return {
            f"{name}.{key}": repr(value)
            for name, part in self._owners()
            for key, value in vars(part).items()
            if type(value) in (int, float) and not key.startswith("_") and not _is_time(value)
        }

    def _owners(self) -> Iterator[tuple[str, Any]]:
        for name, part in modules.named(self._module):
            if not modules.is_metric(part):
                yield name or type(part).__name__, part
        yield from ((type(one).__name__, one) for one in self._callbacks)

    def _sums(self) -> dict[str, int]:
        return {name: _sum(one.detach()) for name, one in self._module.named_parameters()}


def _is_time(value: float) -> bool:
    clocks = (time.time, time.monotonic, time.perf_counter)
    return type(value) is float and any(abs(value - clock()) < _CLOCK_S for clock in clocks)


def _sum(value: Tensor) -> int:
    if isinstance(value, DTensor):
        value = value.to_local()
    if type(value) is not Tensor:
        return 0  # quantized: only its own operations read it
    whole = value.contiguous().view(-1).view(torch.uint8)
    return int(whole.sum()) + int(whole[::3].sum())
