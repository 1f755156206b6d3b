"""Gradients of a global batch: one of each virtual rank, added up in the order of the tree.

Each batch has gradients of its own: those of the batches before are taken away before its backward pass. Torch would
add up gradients in the order in which they come, which depends on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cairn.errors import ConfigError
from cairn.lightning.bits.exchange import add, summed
from cairn.lightning.bits.tree import Counter, Layout
from cairn.lightning.saved import placed

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
        placed.reshard(module)  # a forward pass in a hook may have gathered them
        self._parameters = [one for one in module.parameters() if one.requires_grad]
        self._pushed.clear()
        self._counter.take()

    def begin_batch(self, number: int) -> None:
        """Do nothing: the gradients of a batch are those that its backward pass leaves."""

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

    def remove(self) -> None:
        """Do nothing: nothing was changed."""

    def finish(self) -> None:
        """Set the gradients to their mean over all virtual ranks, on all processes."""
        roots, number = self._counter.take(), self._layout.num_virtual
        self.before_backward()
        if self._layout.world_size == 1:
            (found,) = roots.values()
            for parameter, gradient in zip(self._parameters, found, strict=True):
                parameter.grad = None if gradient is None else _formed(mean(gradient, number), parameter)
            return
        for places in _alike(self._parameters):
            some = [self._parameters[place] for place in places]
            flat = {node: _flat([leaf[place] for place in places], some) for node, leaf in roots.items()}
            _set(some, summed(flat, self._layout), number)


def _added(left: Leaf, right: Leaf) -> Leaf:
    pairs = zip(left, right, strict=True)
    return [two if one is None else one if two is None else add(one, two) for one, two in pairs]


def mean(total: Tensor, number: int) -> Tensor:
    """Return the mean over virtual ranks, in the memory of their sum.

    Zeros have no sign: whether a batch that does not use a parameter adds one depends on the number of processes.
    """
    return total.div_(number).add_(0.0)


def _formed(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a gradient as it comes from an exchange: contiguous; that of a sharded parameter is."""
    return gradient if isinstance(gradient, DTensor) else gradient.reshape(-1).view_as(parameter)


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
    mean(flat, divisor)
    for parameter, part, any_used in zip(parameters, parts, used, strict=True):
        # A copy: where a tensor begins in memory may decide over the order in which its norm is added up on a GPU.
        parameter.grad = part.clone().view_as(parameter) if any_used else None
