"""Parameters change in steps of the optimizer only: a process works on as many batches as it has virtual ranks.

A teacher that follows the model by a moving average in `training_step` or `on_train_batch_end` would take 12 steps in a
global batch on one process, and 6 on two. It is noticed in the first global batch in which a process has several ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cairn.errors import ConfigError


class Unchanged:
    """The parameters of a module during its first global batch.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before: dict[str, int] | None = None
        self._is_done = False

    def check(self, number: int, is_last: bool = False) -> None:
        """Compare the parameters with those that the second batch began with.

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
        self._before, self._is_done = before, is_last

    def _sums(self) -> dict[str, int]:
        return {name: _sum(one.detach()) for name, one in self._module.named_parameters()}


def _sum(value: Tensor) -> int:
    if isinstance(value, DTensor):
        value = value.to_local()
    if type(value) is not Tensor:
        return 0  # quantized: only its own operations read it
    whole = value.contiguous().view(-1).view(torch.uint8)
    return int(whole.sum()) + int(whole[::3].sum())
