"""Gradients of a global batch: one of each virtual rank, added up in the order of the tree.

Each batch has gradients of its own: those of the batches before are taken away before its backward pass. Torch would
add up gradients in the order in which they come, which depends on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from cairn.errors import ConfigError
from cairn.lightning.bits.exchange import add, summed
from cairn.lightning.bits.tree import Counter, Layout

Leaf = list[Tensor | None]
"""Gradient of each parameter; None: the batch has not used it."""


class Gradients:
    """Gradients of the virtual ranks of this process, in one global batch after the other.

    Args:
        layout: Which virtual ranks each process plays.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._counter: Counter[Leaf] = Counter(layout.num_virtual, _added)
        self._parameters: list[nn.Parameter] = []
        self._pushed: set[int] = set()

    def begin(self, module: nn.Module) -> None:
        """Begin a global batch."""
        self._parameters = [one for one in module.parameters() if one.requires_grad]
        self._pushed.clear()
        self._counter.take()

    def before_backward(self) -> None:
        """Take away the gradients of the batches before."""
        for parameter in self._parameters:
            parameter.grad = None

    def after_backward(self, virtual: int) -> None:
        """Take the gradients of a batch.

        Raises:
            ConfigError: There was a backward pass of this batch before.
        """
        if virtual in self._pushed:
            raise ConfigError(
                "The optimizer has asked for the gradients of a batch several times, as LBFGS does, which"
                " elastic='bits' cannot add up: use another optimizer, or elastic='samples'.",
                parameter="elastic",
            )
        self._pushed.add(virtual)
        self._counter.push(virtual, [parameter.grad for parameter in self._parameters])

    def finish(self) -> None:
        """Set the gradients to their mean over all virtual ranks, on all processes."""
        roots, number = self._counter.take(), self._layout.num_virtual
        self.before_backward()
        if self._layout.world_size == 1:
            (found,) = roots.values()
            for parameter, gradient in zip(self._parameters, found, strict=True):
                parameter.grad = None if gradient is None else gradient.div_(number).reshape(-1).view_as(parameter)
            return
        for places in _alike(self._parameters):
            some = [self._parameters[place] for place in places]
            flat = {node: _flat([leaf[place] for place in places], some) for node, leaf in roots.items()}
            _set(some, summed(flat, self._layout), number)


def _added(left: Leaf, right: Leaf) -> Leaf:
    pairs = zip(left, right, strict=True)
    return [_or_zero(one, two) for one, two in pairs]


def _or_zero(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    # Zeros are added as well: -0.0 + 0.0 is 0.0, on any number of processes.
    if left is None:
        return right if right is None else right.add_(0.0)
    return left.add_(0.0) if right is None else add(left, right)


def _alike(parameters: Sequence[nn.Parameter]) -> Iterator[list[int]]:
    """Yield places of parameters whose gradients have one type and device."""
    places = sorted(range(len(parameters)), key=lambda place: _kind(parameters[place]))
    for _, group in groupby(places, key=lambda place: _kind(parameters[place])):
        yield list(group)


def _kind(parameter: nn.Parameter) -> str:
    return f"{parameter.dtype} {parameter.device}"


def _flat(leaf: Leaf, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return gradients in one tensor, followed by whether there are any of each parameter."""
    first = parameters[0]
    flags = torch.tensor([float(one is not None) for one in leaf], dtype=first.dtype).to(first.device)
    pairs = zip(leaf, parameters, strict=True)
    parts = [(torch.zeros_like(like) if one is None else one).reshape(-1) for one, like in pairs]
    return torch.cat([*parts, flags])


def _set(parameters: Sequence[nn.Parameter], flat: Tensor, divisor: int) -> None:
    *parts, flags = flat.split([*(one.numel() for one in parameters), len(parameters)])
    used = flags.tolist()
    flat.div_(divisor)
    for parameter, part, any_used in zip(parameters, parts, used, strict=True):
        # A copy: where a tensor begins in memory may decide over the order in which its norm is added up on a GPU.
        parameter.grad = part.clone().view_as(parameter) if any_used else None
