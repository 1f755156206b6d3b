"""Sharded tensors and the whole ones that a checkpoint holds: the same file as of a run that shards nothing.

save      rows of each rank  -->  the whole tensor, on rank 0
resume    the whole tensor, mapped from the file  -->  the rows of this rank, of any number of ranks
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim import Optimizer

from cairn.errors import ConfigError, ResumeError


def reshard(model: nn.Module) -> None:
    """Free gathered parameters: after a forward pass without gradients the model has whole ones, and no shards."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether a model, or a part of it, is sharded."""
    return any(isinstance(part, FSDPModule) for part in model.modules())


def whole(value: Any, keep: bool) -> Any:
    """Return a state with whole tensors in place of sharded ones. Every rank must call this.

    Args:
        value: Dicts, lists and tensors.
        keep: Whether this rank needs them; another one gets tensors without data.
    """
    if isinstance(value, DTensor):
        found: Tensor = value.detach().full_tensor()
        return found.cpu() if keep else torch.empty_like(found, device="meta")
    if isinstance(value, dict):
        found_in = OrderedDict() if isinstance(value, OrderedDict) else {}
        found_in.update({key: whole(item, keep) for key, item in value.items()})
        if hasattr(value, "_metadata"):  # torch keeps the versions of the modules there
            found_in._metadata = value._metadata
        return found_in
    return [whole(item, keep) for item in value] if type(value) is list else value


def without_data(value: Any) -> Any:
    """Return a state with tensors without data in place of sharded ones: what `whole` returns, as far as its form."""
    if isinstance(value, DTensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, Mapping):
        return {key: without_data(item) for key, item in value.items()}
    return [without_data(item) for item in value] if type(value) is list else value


def rows_of(value: Any, like: Any) -> Any:
    """Return the rows of a whole tensor that a sharded one has on this rank; other values as they are.

    Args:
        value: The whole tensor.
        like: The sharded tensor. If it has another shape, nothing is changed: torch names the two.
    """
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    if value.shape != like.shape:
        return value
    rows = value
    mesh, placements = like.device_mesh, like.placements
    for number, placement in enumerate(placements):
        if isinstance(placement, Shard):
            # As fully_shard: chunks of equal size, of which the last ones may be smaller or empty.
            chunks = list(torch.chunk(rows, mesh.size(number), dim=placement.dim))
            mine = mesh.get_local_rank(number)
            rows = chunks[mine] if mine < len(chunks) else rows.narrow(placement.dim, 0, 0)
    rows = rows.to(like.device)
    return DTensor.from_local(rows, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def weights_for(model: nn.Module, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state_dict of whole tensors in the form that a model can load.

    Args:
        model: The model: sharded, not sharded yet, or without data.
        weights: The state_dict.
    """
    reshard(model)
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    found: OrderedDict[str, Any] = OrderedDict()
    for name, value in weights.items():
        mine = own.get(name)
        if isinstance(mine, Tensor) and mine.is_meta and isinstance(value, Tensor):
            found[name] = value.to("meta")  # rank 0 will send its values
        else:
            found[name] = rows_of(value, mine)
    if hasattr(weights, "_metadata"):
        found._metadata = weights._metadata
    return found


def optimizer_state_for(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of an optimizer with whole tensors in the form that it can load.

    Args:
        optimizer: The optimizer, of sharded parameters.
        state: Its `state_dict`, by numbers of parameters.

    Raises:
        ResumeError: A tensor has another shape than its parameter.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found: dict[Any, Any] = {}
    for number, values in state.get("state", {}).items():
        parameter = parameters[number] if isinstance(number, int) and number < len(parameters) else None
        if parameter is not None and (name := _other_form(values, parameter)):
            raise ResumeError(_cannot_shard(optimizer, name))
        items = values.items() if isinstance(values, Mapping) else ()
        found[number] = {key: _copy(rows_of(value, parameter)) for key, value in items} if items else values
    return {**state, "state": found}


def check_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Check that the state of an optimizer can be sharded like its parameters.

    Args:
        optimizer: The optimizer.
        state: The `state_dict` that it has after a step.

    Raises:
        ConfigError: Its parameters are sharded, and it has tensors of other shapes.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state.get("state", {}).items():
        if isinstance(number, int) and (name := _other_form(values, parameters[number])):
            raise ConfigError(_cannot_shard(optimizer, name))


def check_placements(model: nn.Module) -> None:
    """Check that all trained parameters are sharded, and only in a way that another number of processes can read.

    Raises:
        ConfigError: One is not.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ConfigError(
                f"{name} has no data: it is on the meta device, and was sharded before the strategy could fill it. Remove"
                f" fully_shard from configure_model(), and the strategy shards the model after it has."
            )
        if not isinstance(parameter, DTensor):
            if parameter.requires_grad:
                raise ConfigError(
                    f"{name} lies outside of fully_shard, so nothing would reduce its gradients and each process would"
                    f" train its own: remove fully_shard from configure_model(), and the strategy shards the whole"
                    f" model; or apply it to the module that holds this parameter."
                )
            continue
        if parameter.device_mesh.ndim != 1 or not all(
            type(placement) is Replicate or (type(placement) is Shard and placement.dim == 0)
            for placement in parameter.placements
        ):
            raise ConfigError(
                f"{name} is placed as {tuple(parameter.placements)} on a mesh of {tuple(parameter.device_mesh.shape)}"
                f" processes: tensor parallelism and shards of other dimensions than the first are not supported. Shard"
                f" with fully_shard on the mesh 'data_parallel' only."
            )


def _copy(value: Any) -> Any:
    # An optimizer keeps the tensors that it gets: rows would hold on to the whole tensor, and to the file.
    return value.clone() if isinstance(value, Tensor) else value


def _other_form(values: Any, parameter: Tensor) -> str:
    items = values.items() if isinstance(values, Mapping) else ()
    tensors = [(name, value) for name, value in items if isinstance(value, Tensor) and isinstance(parameter, DTensor)]
    return next((str(name) for name, value in tensors if value.numel() > 1 and value.shape != parameter.shape), "")


def _cannot_shard(optimizer: Optimizer, name: str) -> str:
    return (
        f"{type(optimizer).__name__} keeps {name!r} in another shape than that of its parameter, so it cannot be"
        f" sharded with it: choose an optimizer such as AdamW, or strategy='ddp'."
    )
