"""Sharded tensors and the whole ones that a checkpoint holds: the same file as of a run that shards nothing.

save      rows of each rank  -->  the whole tensor, on rank 0
resume    the whole tensor, mapped from the file  -->  the rows of this rank, of any number of ranks
"""

from __future__ import annotations

import copy
import operator
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from cairn.errors import ConfigError, ResumeError
from cairn.lightning.saved import block
from cairn.writing.sharded.parted import Parted
from cairn.writing.sharded.rows import Rows


def reshard(model: nn.Module) -> None:
    """Free gathered parameters: after a forward pass without gradients the model has whole ones, and no shards.

    Every rank must do this, and so call `state_dict` of a sharded module: otherwise some of them would gather the
    parameters in the next step, and wait for the others.
    """
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether a model, or a part of it, is sharded."""
    return any(isinstance(part, FSDPModule) for part in model.modules())


NO_VALUES = (
    "A hook such as on_save_checkpoint reads values of the weights or of the optimizer states in the checkpoint, which"
    " are divided among the processes: compute what it saves in a step, and keep it in a buffer or an attribute."
)
"""What is wrong if `lacks_values`."""
Convert = Callable[[DTensor], Tensor]
"""Returns what stands for a sharded tensor in a state."""


def whole(keep: bool) -> Convert:
    """Return a function that collects sharded tensors. Every rank must call it, for the same tensors.

    Args:
        keep: Whether this rank needs them; another one gets tensors without data.
    """

    def collect(value: DTensor) -> Tensor:
        found: Tensor = value.detach().full_tensor()
        return found.cpu() if keep else torch.empty_like(found, device="meta")

    return collect


def lacks_values(error: Exception) -> bool:
    """Whether an error says that a tensor has no data."""
    return isinstance(error, RuntimeError | NotImplementedError) and re.search(r"\bmeta\b", str(error)) is not None


def without_data(value: DTensor) -> Tensor:
    """Return a tensor without data in place of a sharded one: what `whole` returns, as far as its form."""
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def rows(value: DTensor) -> Rows:
    """Return the rows, or the block, that this rank has of a sharded tensor."""
    own, whole = block.of(value), without_data(value)
    return Rows(
        whole, value.detach().to_local().contiguous(), own.offsets[0], tile=own.tile(whole), is_written=own.is_written
    )


def converted(value: Any, convert: Convert) -> Any:
    """Return a state with others in place of sharded tensors.

    Args:
        value: Dicts, lists and tensors.
        convert: What to put in their place.
    """
    if isinstance(value, DTensor):
        return convert(value)
    if isinstance(value, dict):
        return {key: converted(item, convert) for key, item in value.items()}
    return [converted(item, convert) for item in value] if type(value) is list else value


def filled(value: Any, collected: Mapping[int, Tensor]) -> Any:
    """Return a state with whole tensors in place of those that stand for them; the same object if it has none.

    Args:
        value: Dicts, lists, tuples and tensors.
        collected: The whole tensors, contiguous, by the storage of what stands for them, see `FSDP2Strategy.collected`.
    """
    if isinstance(value, Tensor):
        whole = collected.get(value.untyped_storage()._cdata) if value.is_meta else None
        if whole is None:
            return value
        return whole.reshape(-1).view(value.dtype).as_strided(value.shape, value.stride(), value.storage_offset())
    if isinstance(value, dict):
        changed = {key: found for key, item in value.items() if (found := filled(item, collected)) is not item}
        if not changed:
            return value
        other = copy.copy(value)  # keeps its class and its attributes
        other.update(changed)
        return other
    if type(value) in (list, tuple):
        items = [filled(item, collected) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    return value


def weights(model: nn.Module, convert: Convert) -> dict[str, Any]:
    """Return the state_dict of a model with others in place of sharded tensors; tied weights stay one tensor.

    Args:
        model: The model. If it is sharded, every rank must call this.
        convert: What to put in their place.
    """
    reshard(model)
    ids = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    found, known = model.state_dict(), dict[Any, Tensor]()
    for name, value in found.items():
        if isinstance(value, DTensor):
            key = ids.get(name, name)
            if key not in known:
                known[key] = convert(value)
            found[name] = known[key]
    return found


def local(value: Tensor) -> Tensor:
    """Return what this rank has of a tensor: all of one that is not sharded."""
    found: Tensor = value.to_local() if isinstance(value, DTensor) else value
    return found


def rows_of(value: Any, like: Any, parted: Parted | None = None) -> Any:
    """Return the rows, or the block, of a whole tensor that a sharded one has on this rank; other values as they are.

    Args:
        value: The whole tensor.
        like: The sharded tensor. If it has another shape, nothing is changed: torch names the two.
        parted: Where the values are that a tensor without data stands for.
    """
    if not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    is_parted = parted is not None and parted.knows(value)
    if not isinstance(like, DTensor) or value.shape != like.shape or not block.is_divided(like):
        value = parted.whole(value) if parted is not None and is_parted else value
        if not isinstance(like, DTensor) or value.shape != like.shape:
            return value
        mine = value
    else:
        own = block.of(like)
        if parted is None or not is_parted:
            mine = own.of(value)
        elif own.dim:
            mine = parted.block(value, own.offsets, own.sizes, own.dim)
        else:
            mine = parted.rows(value, own.offsets[0], own.sizes[0])
    mine = mine.to(like.device)
    return DTensor.from_local(
        mine, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


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


def optimizer_state_for(optimizer: Optimizer, state: Mapping[str, Any], parted: Parted | None = None) -> dict[str, Any]:
    """Return a state of an optimizer with whole tensors in the form that it can load.

    Args:
        optimizer: The optimizer, of sharded parameters.
        state: Its `state_dict`, by numbers of parameters.
        parted: Where the values are that tensors without data stand for.

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
        found[number] = {key: _copy(rows_of(value, parameter, parted)) for key, value in items} if items else values
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
