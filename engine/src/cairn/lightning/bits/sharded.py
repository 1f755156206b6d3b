"""Gradients of sharded parameters (FSDP2): in the order of the tree as well, and divided like the parameters.

    backward pass of a block    all_to_all in place of FSDP's reduce-scatter: each process gets its rows of the
                                gradients of all of them, and adds these to its tree, in the order of virtual ranks
    after the last batch        the sum of each block, divided by the number of virtual ranks, is its gradient

Processes play the virtual ranks in turn: so leaves come in their order, and a process keeps log2(V) sums of its rows
at most. On one process, FSDP leaves its reduce-scatter out, and `Gradients` does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule

from cairn.errors import ConfigError
from cairn.lightning.bits.exchange import add
from cairn.lightning.bits.gradients import mean
from cairn.lightning.bits.tree import Counter, Layout
from cairn.lightning.saved import placed
from cairn.lightning.used import Used, Watch, own_parameters


class ShardedGradients:
    """Gradients of the virtual ranks of all processes, of which this one has its rows.

    Args:
        module: The module, whose parts are sharded.
        layout: Which virtual ranks each process plays, in turn.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        self._layout = layout
        self._used = Used()
        placed.reshard(module)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
        self._sums = [Sum(part, names, layout, self._used) for part in parts]
        self._parameters: list[tuple[str, nn.Parameter]] = []

    def begin(self, module: nn.Module) -> None:
        """Begin a global batch."""
        placed.reshard(module)  # a forward pass in a hook may have gathered them
        self._parameters = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
        self._used.begin()
        for one in self._sums:
            one.begin()

    def begin_batch(self, number: int) -> None:
        """Begin a batch.

        Args:
            number: Its number among the batches of this process in their global batch.
        """
        self._used.counts = number < len(self._layout.own)
        for one in self._sums:
            one.begin_batch(number)

    def before_backward(self) -> None:
        """Take away the gradients of the batches before."""
        for _, parameter in self._parameters:
            parameter.grad = None

    def after_backward(self, virtual: int) -> None:
        """Add the gradients of a batch, and of those of the other processes, that were not added yet.

        Raises:
            ConfigError: A parameter has a gradient that FSDP has not made.
        """
        parameters = dict(self._parameters)
        for one in self._sums:
            one.check(parameters)
            one.flush()

    def finish(self) -> None:
        """Set the gradients to their mean over all virtual ranks, each process those of its rows."""
        for one in self._sums:
            one.flush()  # of a batch that counts for other processes only
            one.finish()
        self._used.clear_others(self._parameters)

    def remove(self) -> None:
        """Let FSDP reduce as before."""
        for one in self._sums:
            one.remove()


class Sum:
    """Takes the place of FSDP's reduce-scatter for one part of the model, and adds up its gradients.

    Args:
        part: The part.
        names: Of the parameters of the model, by their id.
        layout: Which virtual ranks each process plays, in turn.
        used: Learns which parameters are used.
    """

    def __init__(self, part: Any, names: Mapping[int, str], layout: Layout, used: Used) -> None:
        self._layout, self._part = layout, part
        self._counter: Counter[Tensor] = Counter(layout.num_virtual, add)
        self._own = list(own_parameters(part, names))
        self._watch = Watch(self._own, used)
        self._is_on = True
        self._added: set[int] = set()
        """Numbers of the batches whose gradients are in the tree."""
        self._number = self._num_forwards = self._num_calls = 0
        self._received: Tensor | None = None
        self._output: Tensor | None = None
        begins = torch.compiler.disable(self._forward_begins)  # it counts: compiled code would be compiled each time
        self._hook = part.register_forward_pre_hook(begins)  # after that of FSDP, which gathers
        part.set_custom_reduce_scatter(self)
        part.set_reduce_scatter_unused_params(True, recurse=False)  # else processes would send different parts
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)

    def begin(self) -> None:
        """Begin a global batch."""
        self._counter.take()
        self._added.clear()

    def begin_batch(self, number: int) -> None:
        """Begin a batch; see `ShardedGradients`."""
        self._number, self._num_forwards, self._num_calls = number, 0, 0
        self._received = self._output = None

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for what is sent, or for the result."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any) -> None:
        """Exchange the gradients of a backward pass of this part.

        Args:
            output_tensor: Becomes the gradients of this process. `finish` fills it.
            input_tensor: Gradients of this process, the rows of each process together.
            group: The processes.
            op: How FSDP would add up.
        """
        if not self._is_on:
            dist.reduce_scatter_tensor(output_tensor, input_tensor, op=op, group=group)
            return
        if self._number in self._added:
            raise ConfigError(
                f"elastic='bits' cannot keep its promise here: {name_of(self._part)} has gradients again after those of"
                f" all its forward passes. Use strategy='ddp', or elastic='samples'.",
                parameter="elastic",
            )
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        output_tensor.zero_()
        if self._output is None:
            self._output = output_tensor  # FSDP adds those of further calls to it
        self._received = received if self._received is None else self._received.add_(received)
        self._num_calls += 1
        if self._num_calls >= self._num_forwards:
            self.flush()

    def flush(self) -> None:
        """Add what was received of this batch to the tree: when its last call has come, or its backward pass ends."""
        if self._received is None:
            return
        for virtual, leaf in zip(
            self._played(self._number), self._received.chunk(self._layout.world_size), strict=False
        ):
            self._counter.push(virtual, leaf)
        # What remains is a part of what was received, whose memory would be kept as a whole.
        self._counter.nodes = {
            node: value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
            for node, value in self._counter.nodes.items()
        }
        self._received = None
        self._added.add(self._number)

    def _played(self, number: int) -> range:
        """Return the virtual ranks that the processes play in a batch."""
        first = number * self._layout.world_size
        return range(first, min(first + self._layout.world_size, self._layout.num_virtual))

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Check that the gradients of a batch are those that were exchanged.

        Args:
            parameters: Parameters of the model by name.

        Raises:
            ConfigError: The loss uses a sharded parameter itself, so that its gradient does not come through FSDP.
        """
        memory = None if self._output is None else self._output.untyped_storage().data_ptr()
        for _, _, name in self._own:
            gradient = parameters[name].grad if name in parameters else None
            if gradient is not None and gradient._local_tensor.untyped_storage().data_ptr() != memory:
                raise ConfigError(
                    f"The loss uses {name} outside of the forward pass of its module, such as for a penalty on all"
                    f" parameters, and elastic='bits' cannot add up that part of its gradient: use weight_decay,"
                    f" compute it in forward(), or strategy='ddp'.",
                    parameter="elastic",
                )

    def finish(self) -> None:
        """Fill in the mean: the gradients of the last batch, and of this process, become those of all."""
        if self._output is None:  # nothing in this part is trained
            return
        # FSDP leaves out a part that was not used by any batch of any step yet.
        for number in set(range(self._layout.per_window)) - self._added:
            for virtual in self._played(number):
                self._counter.push(virtual, torch.zeros_like(self._output))
        (total,) = self._counter.take().values()
        self._output.copy_(mean(total, self._layout.num_virtual))
        self._output = None

    def remove(self) -> None:
        """Let FSDP reduce as before."""
        self._is_on = False  # torch has no way back to its own
        self._part.set_gradient_divide_factor(float(self._layout.world_size))
        self._part.set_force_sum_reduction_for_comms(False)
        self._hook.remove()
        self._watch.remove()

    def _forward_begins(self, *_: Any) -> None:
        if not torch.is_grad_enabled():
            return
        self._num_forwards += 1
        self._watch.forward_begins()


def name_of(module: Any) -> str:
    """Return the name of a class, as it was before torch has made another one of it to shard the module."""
    return next(kind.__name__ for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))
