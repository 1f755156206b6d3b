"""A check that all processes use the same blocks: each of them gathers a block from all others.

    process 0   blocks.0   blocks.1   blocks.2   end of the forward pass
    process 1   blocks.0   blocks.2   <-- another one: without the check, a mix of the weights of both

It costs a small exchange between CPUs per block, so it is done in the first batches only. Blocks that are left out at
random, or on one process, are noticed by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from cairn.errors import ConfigError

_NUM_BATCHES = 8


class SameBlocks:
    """Compares the blocks that processes use.

    Args:
        module: The sharded module.
        world_size: Number of processes.
        group: In which CPUs talk; None: the group of all processes.
    """

    def __init__(self, module: nn.Module, world_size: int, group: Any = None) -> None:
        self._group, self._num_left, self._is_inside = group, _NUM_BATCHES if world_size > 1 else 0, False
        found: list[tuple[str, Any]] = list(module.named_modules())
        self._blocks = [(name, part) for name, part in found if isinstance(part, FSDPModule) and name]
        self._hooks: list[Any] = []
        for number, (_, part) in enumerate(self._blocks if self._num_left else ()):
            check = torch.compiler.disable(partial(self._gathers, number))
            self._hooks.append(part.register_forward_pre_hook(check, prepend=True))  # before that of FSDP

    @contextmanager
    def training_step(self) -> Iterator[None]:
        """Context of a `training_step`.

        Raises:
            ConfigError: Processes use different blocks.
        """
        if not self._hooks:
            yield
            return
        self._is_inside = True
        try:
            yield
            self._compare(len(self._blocks))
        finally:
            self._is_inside = False
        self._num_left -= 1
        if not self._num_left:
            while self._hooks:
                self._hooks.pop().remove()

    def _gathers(self, number: int, *_: Any) -> None:
        if self._is_inside and torch.is_grad_enabled():
            self._compare(number)

    def _compare(self, number: int) -> None:
        said = torch.tensor([number, -number])
        distributed.all_reduce(said, distributed.ReduceOp.MAX, group=self._group)
        last, first = said[0].item(), -said[1].item()
        if last != first:
            raise ConfigError(
                f"Processes use different blocks of the model in a batch: one has come to {self._name(first)}, and"
                f" another one to {self._name(last)}. With FSDP2, each process gathers a block from all of them, so all"
                f" have to use the same ones in the same order: decide by values that are equal on all processes, such"
                f" as global_step, name other classes in `blocks`, or use strategy='ddp'.",
                parameter="blocks",
            )

    def _name(self, number: float) -> str:
        return self._blocks[int(number)][0] if number < len(self._blocks) else "the end of training_step"
