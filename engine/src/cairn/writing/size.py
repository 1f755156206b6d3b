"""Estimate of a checkpoint's size: before it is written, and before the optimizers have any state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

_RECORD_BYTES = 200  # per storage in torch's zip format, besides its bytes: two headers and padding
_LEAF_BYTES, _TENSOR_BYTES = 20, 150  # in the pickle: a name or a number, and the rebuilding of a tensor
_SETTINGS = (bool, int, float, str, type(None))
_PLAIN_KERNELS = {"fused": False, "foreach": False, "capturable": False}


def num_bytes(state: Any) -> int:
    """Estimate the size of the file of `state`; a storage that several tensors share counts once.

    Args:
        state: Mappings and sequences of tensors and plain values.

    Returns:
        Bytes.
    """
    storages: dict[int, int] = {}
    pickled = 0
    for leaf in _leaves(state):
        pickled += _LEAF_BYTES
        if isinstance(leaf, Tensor) and not is_lazy(leaf):
            pickled += _TENSOR_BYTES
            if is_sharded(leaf):  # a checkpoint holds the whole tensor
                storages[id(leaf)] = leaf.numel() * leaf.element_size()
                continue
            storage = leaf.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values()) + _RECORD_BYTES * len(storages) + pickled


def first_num_bytes(module: nn.Module, optimizers: Iterable[Optimizer]) -> int:
    """Estimate the size of the first checkpoint before training: the weights, and the future state of each optimizer.

    A lazy module counts as empty: its parameters have no shape before the first batch.

    Args:
        module: The model.
        optimizers: Its optimizers, most likely without any state yet.

    Returns:
        Bytes.
    """
    return num_bytes(module.state_dict()) + sum(num_bytes(state_after_a_step(optimizer)) for optimizer in optimizers)


def state_after_a_step(optimizer: Optimizer) -> Mapping[str, Any]:
    """Return the state of an optimizer; if it has none yet, the one that a step makes of tensors without data."""
    if optimizer.state:
        return optimizer.state_dict()
    twin = type(optimizer).__new__(type(optimizer))
    # Objects among its attributes, such as an optimizer that it wraps, would step on the real parameters.
    twin.__dict__.update({name: value for name, value in vars(optimizer).items() if type(value) in _SETTINGS})
    try:
        groups = [
            {**group, **_PLAIN_KERNELS, "params": [_without_data(p) for p in group["params"] if not is_lazy(p)]}
            for group in optimizer.param_groups
        ]
        twin.__setstate__({"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": groups})
        type(optimizer).step(twin)
        state = twin.state_dict()
        # The options of the real groups: the twin has other kernels.
        return {**state, "param_groups": optimizer.state_dict()["param_groups"]}
    except Exception:  # an optimizer that is built in another way than torch's: what its step makes is left out
        return {}


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which this process may have a part only."""
    return hasattr(tensor, "device_mesh")


def _without_data(parameter: Tensor) -> nn.Parameter:
    if is_sharded(parameter):
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    else:
        whole = torch.empty_like(parameter, device="meta")
    twin = nn.Parameter(whole, requires_grad=parameter.requires_grad)
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
