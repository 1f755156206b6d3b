"""Parameter groups that schedulers of torch treat alike: a schedule is repeated with one of each kind.

A model often has a group for each layer, and most of them have the same learning rate. What a scheduler computes for
one of those holds for all of them, to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

SCHEDULED = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas", "base_momentum", "max_momentum")
"""Options of a parameter group that schedulers set or read."""
_LISTS = ("base_lrs", "_last_lr", "lr_lambdas", "max_lrs", "min_lrs", "base_momentums", "max_momentums")
"""Attributes of the schedulers of torch with one value for each parameter group."""


@contextmanager
def one_of_each_kind(optimizer: Optimizer, parts: Sequence[Any]) -> Iterator[int]:
    """Context in which an optimizer has one group of each kind; afterwards the others get what it has become.

    Args:
        optimizer: The optimizer.
        parts: The schedulers that act on it, and those inside of them.

    Yields:
        The number of groups in the context: all of them, if a scheduler of another package acts on them.
    """
    groups = optimizer.param_groups
    lists = [(vars(part), name) for part in parts for name in _LISTS if isinstance(vars(part).get(name), list)]
    if not (all(map(_is_known, parts)) and all(len(own[name]) == len(groups) for own, name in lists)):
        yield len(groups)
        return
    first: dict[tuple[Any, ...], int] = {}
    kinds = [
        first.setdefault((*_options(group), *(_key(own[name][number]) for own, name in lists)), number)
        for number, group in enumerate(groups)
    ]
    kept = list(first.values())
    optimizer.param_groups = [groups[number] for number in kept]
    for own, name in lists:
        own[name] = [own[name][number] for number in kept]
    try:
        yield len(kept)
    finally:
        optimizer.param_groups = groups
        for number, kind in enumerate(kinds):
            if number != kind:
                for name in SCHEDULED:
                    if name in groups[kind]:
                        put(groups[number], name, copy.deepcopy(groups[kind][name]))
        for own, name in lists:
            own[name] = [own[name][kept.index(kind)] for kind in kinds]


def put(group: dict[str, Any], name: str, value: Any) -> None:
    """Set an option of a parameter group; a tensor keeps its place, because a compiled optimizer reads it there."""
    if isinstance(group.get(name), Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def _is_known(part: Any) -> bool:
    return type(part).__module__ == lr_scheduler.__name__


def _options(group: dict[str, Any]) -> Iterator[Any]:
    return (_key(group.get(name)) for name in SCHEDULED)


def _key(value: Any) -> Any:
    return id(value) if callable(value) else repr(value.tolist() if isinstance(value, Tensor) else value)
