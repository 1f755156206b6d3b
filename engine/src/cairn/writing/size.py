"""How many bytes a checkpoint will take: before it is written, and before the optimizers have any state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_RECORD_BYTES = 200  # what torch's zip file holds beside the bytes of each storage: two headers, padding
_PLAIN_KERNELS = {"fused": False, "foreach": False, "capturable": False}
_LEAF_BYTES, _TENSOR_BYTES = 20, 150  # of a name or a number in its pickle, and of how a tensor is put together


def num_bytes(state: Any) -> int:
    """About what `torch.save` makes of `state`; a storage that several tensors share is written once."""
    storages: dict[int, int] = {}
    pickled = 0
    for leaf in _leaves(state):
        pickled += _LEAF_BYTES
        if isinstance(leaf, Tensor):
            pickled += _TENSOR_BYTES
            storage = leaf.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values()) + _RECORD_BYTES * len(storages) + pickled


def first_num_bytes(module: nn.Module, optimizers: Iterable[Optimizer]) -> int:
    """About what the first checkpoint takes, asked before training: the weights, and what each optimizer will hold."""
    return num_bytes(module.state_dict()) + sum(num_bytes(_state_after_a_step(optimizer)) for optimizer in optimizers)


def _state_after_a_step(optimizer: Optimizer) -> Mapping[str, Any]:
    """The state that an optimizer has, or the one that it makes in a step on tensors without data."""
    if optimizer.state:
        return optimizer.state_dict()
    twin = type(optimizer).__new__(type(optimizer))
    groups = [
        {**group, **_PLAIN_KERNELS, "params": [_without_data(parameter) for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    try:
        twin.__setstate__({"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": groups})
        type(optimizer).step(twin)
    except Exception:  # an optimizer of another kind than torch's own: the weights alone are the least that it takes
        return {}
    return twin.state_dict()


def _without_data(parameter: Tensor) -> nn.Parameter:
    twin = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
    twin.grad = torch.empty_like(twin) if twin.requires_grad else None
    return twin


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
