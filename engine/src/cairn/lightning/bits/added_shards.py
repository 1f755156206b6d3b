"""A watch for code that adds up sharded values, such as a norm in a hook: the order depends on the shards."""

from __future__ import annotations

from typing import Any

from torch.distributed.tensor import DTensor, Partial
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cairn.errors import ConfigError

_ANY_ORDER = {"max", "min"}


class AddedShards(TorchDispatchMode):
    """Context in which it is an error to add up a sharded tensor.

    Raises:
        ConfigError: Code does it. The message names the operation.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found) if isinstance(found, list | tuple | dict) else (found,):
            if isinstance(value, DTensor) and value.is_floating_point() and any(map(_is_sum, value.placements)):
                raise ConfigError(
                    f"A hook or the optimizer adds up a sharded tensor ({func}), in an order that depends on the number"
                    f" of processes: with elastic='bits', use tensor.full_tensor() there, gradient_clip_val, or"
                    f" strategy='ddp'.",
                    parameter="elastic",
                )
        return found


def _is_sum(placement: Any) -> bool:
    return isinstance(placement, Partial) and placement.reduce_op not in _ANY_ORDER
