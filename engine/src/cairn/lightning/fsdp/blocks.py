"""Which parts of a model are sharded on their own: its blocks, one of which is gathered at a time.

LanguageModel                 the rest: gathered for the whole step
  net.tokens, net.norm
  net.blocks.0   Block        gathered for its forward pass, and again for its backward pass
  net.blocks.1   Block
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from cairn.errors import ConfigError

AUTO = "auto"
Wanted = str | Sequence[str]
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def find(model: nn.Module, wanted: Wanted = AUTO) -> list[nn.Module]:
    """Return the blocks of a model, inner ones before the modules that contain them.

    A module that shares a parameter with one outside of it is not a block: the two would get different shards.

    Args:
        model: The model.
        wanted: Names of classes, as `Block` or `project.models.gpt.Block`. `auto`: the outermost modules that have
            layers of their own and lie in one list (`ModuleList`, `ModuleDict`, `Sequential`) with another one of
            their class.

    Raises:
        ConfigError: The model has no module of a class that is named.
    """
    found = list(_repeated(model)) if wanted == AUTO else _of_classes(model, wanted)
    shared = _shared(model, found)
    order = {id(part): number for number, part in enumerate(model.modules())}  # a module comes before its parts
    kept = [part for part in dict.fromkeys(found) if id(part) not in shared]
    return sorted(kept, key=lambda part: -order[id(part)])


def recompute(blocks: Sequence[nn.Module]) -> None:
    """Let blocks keep their inputs only, and repeat their forward pass when the backward pass needs its values.

    Raises:
        ConfigError: There is no block, or one of them counts its forward passes.
    """
    if not blocks:
        raise ConfigError(
            "activation_checkpointing=True repeats the forward pass of each block, and no block is found in this model:"
            " name the class of its blocks in `blocks`.",
            parameter="activation_checkpointing",
        )
    counting = [part for block in blocks for part in block.modules() if isinstance(part, _NormBase)]
    if any(part.track_running_stats for part in counting):
        raise ConfigError(
            f"activation_checkpointing=True repeats forward passes, and {type(counting[0]).__name__} would count each"
            f" batch twice in its running statistics: turn it off, or use a normalization without them.",
            parameter="activation_checkpointing",
        )
    for block in blocks:
        # An attribute, as Lightning sets one for a training step: another class would give parameters other names.
        block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    if isinstance(module, _CONTAINERS):
        classes = Counter(type(child) for child in children if _is_composed(child))
        repeated = [child for child in children if classes[type(child)] > 1]
        yield from repeated
        children = [child for child in children if child not in repeated]
    for child in children:
        yield from _repeated(child)


def _is_composed(module: nn.Module) -> bool:
    has_parameters = any(True for _ in module.parameters())
    return has_parameters and not isinstance(module, _CONTAINERS) and any(True for _ in module.children())


def _of_classes(model: nn.Module, wanted: Wanted) -> list[nn.Module]:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    found = [part for part in model.modules() if part is not model and {*names} & set(_names(part))]
    known = {name for part in found for name in _names(part)}
    if unknown := [name for name in names if name not in known]:
        classes = {type(part).__name__ for part in model.modules() if _is_composed(part) and part is not model}
        raise ConfigError(
            f"blocks={unknown[0]}: {type(model).__name__} has no module of this class. Those with layers of their own"
            f" are {', '.join(sorted(classes)) or 'none'}; 'auto' takes the ones that repeat.",
            parameter="blocks",
        )
    return [part for part in found if any(True for _ in part.parameters())]


def _names(module: nn.Module) -> tuple[str, str]:
    kind = type(module)
    return kind.__name__, f"{kind.__module__}.{kind.__qualname__}"


def _shared(model: nn.Module, blocks: Sequence[nn.Module]) -> set[int]:
    """Return the ids of blocks with a parameter that belongs to a module outside of them, too."""
    owners: dict[int, set[int]] = {}
    for part in model.modules():
        for parameter in part.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(part))
    found = set()
    for block in blocks:
        inside = {id(part) for part in block.modules()}
        if any(not owners[id(parameter)] <= inside for parameter in block.parameters()):
            found.add(id(block))
    return found
