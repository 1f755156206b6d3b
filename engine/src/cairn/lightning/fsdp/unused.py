"""Layers that only some batches use, or only some processes: they send zeros for them.

torch alone leaves a parameter without a gradient out of what it reduces. Processes that use different layers would then
add up gradients of different parameters, or end in an error of gloo.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from cairn.lightning.saved import placed
from cairn.lightning.used import Used, Watch, own_parameters


class UnusedLayers:
    """Lets all processes reduce the same parameters.

    Args:
        module: The sharded module.
        world_size: Number of processes. One process alone reduces nothing.
        group: In which CPUs talk; None: the group of all processes.
    """

    def __init__(self, module: nn.Module, world_size: int, group: Any = None) -> None:
        self._module, self._used = module, Used(group)
        self.is_on = False
        """False while something else reduces gradients."""
        placed.reshard(module)
        self._names = {id(parameter): name for name, parameter in module.named_parameters()}
        parts: list[Any] = [part for part in module.modules() if isinstance(part, FSDPModule)]
        if world_size == 1 or not all(hasattr(part, "set_reduce_scatter_unused_params") for part in parts):
            return  # before torch 2.13
        self.is_on = True
        for part in parts:
            watch = Watch(list(own_parameters(part, self._names)), self._used)
            part.set_reduce_scatter_unused_params(True, recurse=False)
            # After the hook of FSDP, which gathers. Compiled code would be compiled again for each parameter.
            part.register_forward_pre_hook(torch.compiler.disable(lambda *_, watch=watch: watch.forward_begins()))

    def after_backward(self) -> None:
        """Let the optimizer leave alone what no batch has used since its last step. Every process must call this."""
        if self.is_on:
            self._used.clear_others([(name, one) for name, one in self._module.named_parameters() if one.requires_grad])

    def step_ended(self, optimizer: Optimizer) -> None:
        """Begin again with the parameters of an optimizer."""
        if self.is_on:
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            self._used.forget({self._names[id(one)] for one in parameters if id(one) in self._names})
