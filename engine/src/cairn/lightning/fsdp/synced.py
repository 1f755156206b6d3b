"""Values of rank 0 for the model of every rank, on its device: one part at a time, which is then sharded.

rank 0        the model as its code has initialized it
other ranks   the same model, or one without data (on the meta device)
part          filled with rank 0's values --> sharded, so that a rank keeps its rows --> next part
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from cairn.errors import ConfigError

Owners = dict[int, list[tuple[nn.Module, str]]]
"""Where each parameter belongs, by its id: tied weights belong to several modules."""


def forms(model: nn.Module) -> list[str]:
    """Return names, types and shapes of parameters and buffers.

    Raises:
        ConfigError: A lazy module has no shape yet.
    """
    found = []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise ConfigError(
                f"{name} gets its shape with the first batch, and sharding needs it before: build this layer with its"
                f" sizes, or call the model once in setup()."
            )
        found.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
    return found


def owners(model: nn.Module) -> Owners:
    """Return the modules that each parameter belongs to."""
    found: Owners = {}
    for part in model.modules():
        for leaf, parameter in part._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((part, leaf))
    return found


def fill(part: nn.Module, owners: Owners, device: torch.device) -> None:
    """Give the parameters and buffers of a part the values of rank 0. Every rank must call this.

    Args:
        part: A part of the model; what is sharded already stays.
        owners: Owners of the tensors of the model.
        device: Where the values go.
    """
    for parameter in _unsharded(part.parameters()):
        value = _from_rank_0(parameter.detach(), device)
        if not parameter.is_meta:
            parameter.data = value
            continue
        filled = nn.Parameter(value, parameter.requires_grad)
        places = owners.pop(id(parameter))
        owners[id(filled)] = places
        for module, leaf in places:
            module._parameters[leaf] = filled
    for module in part.modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None and not isinstance(buffer, DTensor):
                module._buffers[leaf] = _from_rank_0(buffer, device)


def share_buffers(model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, as DistributedDataParallel does before a step."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        local = buffer.to_local() if isinstance(buffer, DTensor) else buffer  # each rank has all of it
        by_type.setdefault(buffer.dtype, []).append(local)
    for buffers in by_type.values():
        flat = torch.cat([buffer.detach().reshape(-1) for buffer in buffers])
        distributed.broadcast(flat, src=0)
        if distributed.get_rank() == 0:
            continue
        with torch.no_grad():
            for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))


def _unsharded(parameters: Iterable[nn.Parameter]) -> Iterator[nn.Parameter]:
    return (parameter for parameter in list(parameters) if not isinstance(parameter, DTensor))


def _from_rank_0(tensor: Tensor, device: torch.device) -> Tensor:
    value = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
    value = value.contiguous()  # what torch can shard and send
    if distributed.get_world_size() > 1:
        distributed.broadcast(value, src=0)
    return value
