"""A watch for code whose result depends on the shards, such as a norm in a hook, which is added up in their order."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.utils._python_dispatch import TorchDispatchMode

from cairn.errors import ConfigError

_ANY_ORDER = {"max", "min"}


class WatchedShards(TorchDispatchMode):
    """Context in which it is an error to add up a sharded tensor, or to draw random numbers for one.

    Raises:
        ConfigError: Code does it. The message names the operation.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        values = found if isinstance(found, list | tuple) else (found,)
        draws = _draws(func)
        for value in values:
            # Each operation of an optimizer comes here, mostly with shards: that answer is quick.
            if type(value) is not DTensor or not (draws or any(type(one) is not Shard for one in value.placements)):
                continue
            if value.is_floating_point() and any(map(_is_sum, value.placements)):
                raise _refusal(f"adds up a sharded tensor ({func}), in an order that depends")
            if value.is_floating_point() and draws:
                raise _refusal(f"draws random numbers for a sharded tensor ({func}), which depend")
        return found


@lru_cache(1024)
def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _is_sum(placement: Any) -> bool:
    return isinstance(placement, Partial) and placement.reduce_op not in _ANY_ORDER


def _refusal(what: str) -> ConfigError:
    return ConfigError(
        f"A hook or the optimizer {what} on the number of processes: with elastic='bits', use tensor.full_tensor()"
        f" there, or strategy='ddp'.",
        parameter="elastic",
    )
