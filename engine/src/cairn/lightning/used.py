"""Which parameters batches have used, where torch reduces a gradient of zero for the others.

With `fully_shard`, all processes have to send the same parts of a gradient. An optimizer leaves alone a parameter that
no batch of any process has used, as with DDP: its gradient is None, rather than zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule

Own = Sequence[tuple[nn.Module, str, str]]
"""Module, attribute and name of each parameter that is sharded with a part."""


_CPU = torch.device("cpu")


class Used:
    """The parameters that batches have used.

    Args:
        group: In which CPUs talk; None: the group of all processes.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.counts = True
        """Whether the batch counts that is worked on."""
        self._names: set[str] = set()

    def begin(self) -> None:
        """Begin without any."""
        self._names.clear()

    def forget(self, names: set[str]) -> None:
        """Begin again with the parameters that have these names."""
        self._names -= names

    def add(self, name: str, parameter: Tensor | None = None) -> None:
        """Note that a batch has used a parameter, when its gradient is there."""
        if self.counts:
            self._names.add(name)

    def by_any(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> list[bool]:
        """Return whether a batch of any process has used each parameter. Every process must call this."""
        device = next((value.device for _, value in parameters), _CPU) if self._group is None else _CPU
        flags = torch.tensor([name in self._names for name, _ in parameters], dtype=torch.uint8).to(device)
        if flags.numel():
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        return [bool(flag) for flag in flags.tolist()]

    def clear_others(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
        """Take away the gradients of those that no process has used. Every process must call this."""
        for (_, parameter), is_used in zip(parameters, self.by_any(parameters), strict=True):
            if not is_used:
                parameter.grad = None


class Watch:
    """Notes which parameters of a part of the model batches use.

    Args:
        own: Its parameters.
        used: Learns of them.
    """

    def __init__(self, own: Own, used: Used) -> None:
        self._own, self._used = own, used
        self._watched: set[str] = set()
        self._hooks: list[Any] = []

    def forward_begins(self) -> None:
        """Look for parameters that were not seen yet, after they are gathered: one may have thawed."""
        if not torch.is_grad_enabled():
            return
        for module, leaf, name in self._own:
            parameter = module._parameters[leaf]  # the same object in each step
            if parameter is not None and parameter.requires_grad and name not in self._watched:
                self._watched.add(name)
                self._hooks.append(parameter.register_post_accumulate_grad_hook(partial(self._used.add, name)))

    def remove(self) -> None:
        """Note nothing any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def own_parameters(part: nn.Module, names: Mapping[int, str]) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield module, attribute and name of each parameter that is sharded with a part, once.

    Args:
        part: The part.
        names: Of the parameters of the model, by their id.
    """
    waiting, seen = [part], set()
    while waiting:
        module = waiting.pop()
        for leaf, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, leaf, names[id(parameter)]
        waiting += [one for one in module.children() if not isinstance(one, FSDPModule)]
