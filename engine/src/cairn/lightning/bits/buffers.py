"""Buffers of the model, such as the statistics of BatchNorm: they follow virtual rank 0.

Each batch of a global batch begins with the buffers that the one before has left, as on as many processes as there are
virtual ranks, and those of virtual rank 0 remain: DDP does the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cairn.lightning.bits.exchange import from_first
from cairn.lightning.bits.tree import Layout
from cairn.lightning.saved import unsaved


class Buffers:
    """The buffers of a module during a global batch.

    Args:
        module: The module.
        layout: Which virtual ranks each process plays.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        self._module, self._layout = module, layout
        self._before: dict[str, Tensor] = {}
        self._of_first: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Keep the buffers that each batch begins with."""
        self._before, self._of_first = self._copied() if self._layout.num_virtual > 1 else {}, {}

    def batch_ends(self, virtual: int) -> None:
        """Put the buffers back, for the next batch."""
        if not self._before:
            return
        if virtual == 0:
            self._of_first = self._copied()
        if virtual != self._layout.own[-1]:
            self._put(self._before)

    def finish(self) -> None:
        """Set the buffers to what virtual rank 0 has left, on all processes."""
        self._put(self._of_first)
        from_first([buffer.detach() for buffer in self._module.buffers() if buffer.numel()], self._layout)
        self._before, self._of_first = {}, {}

    def _copied(self) -> dict[str, Tensor]:
        return {name: buffer.detach().clone() for name, buffer in self._module.named_buffers()}

    def _put(self, values: dict[str, Tensor]) -> None:
        own = dict(self._module.named_buffers())
        for name, value in values.items():
            if name in own and own[name].shape != value.shape:
                unsaved.put_buffer(self._module, name, value)
            elif name in own and not torch.equal(own[name], value):  # one that never changes may not be writable
                own[name].detach().copy_(value)
