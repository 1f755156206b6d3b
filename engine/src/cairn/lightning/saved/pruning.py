"""Masks of pruned parameters: a model that is built for a resume does not have them yet.

`torch.nn.utils.prune` replaces the parameter `weight` of a layer by `weight_orig` and the buffer `weight_mask`. A file
has the product, `weight`, which a new model can load; a resume makes the two of it again, after the optimizers have
taken the parameters in their first order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn.utils import prune

from cairn.lightning.reading import modules


def names(module: nn.Module) -> set[str]:
    """Return the names of the pruned parameters of a module."""
    return {
        f"{name}.{hook._tensor_name}".lstrip(".")
        for name, part in modules.named(module)
        for hook in part._forward_pre_hooks.values()
        if isinstance(hook, prune.BasePruningMethod)
    }


def state(trainer: Trainer) -> dict[str, Any]:
    """Return the parameters without their masks, the masks, and what `ModelPruning` remembers of the first weights."""
    tensors, pruned = {}, names(trainer.lightning_module)
    # In the order of the parameters, which pruning has changed and a resume changes in the same way.
    for name, _ in trainer.lightning_module.named_parameters() if pruned else ():
        if (name := name.removesuffix("_orig")) not in pruned:
            continue
        part, leaf = _found(trainer.lightning_module, name)
        kinds = {"orig": getattr(part, f"{leaf}_orig"), "mask": getattr(part, f"{leaf}_mask")}
        # The product is of the last forward pass, before the last step: what is pruned next is chosen by it.
        tensors[name] = {kind: tensor.detach() for kind, tensor in (kinds | {"product": getattr(part, leaf)}).items()}
    first = [
        {"weights": copy.state_dict(), "shared": [leaf for leaf, now in leaves.items() if _shares(copy, leaf, now)]}
        for copy, leaves in _first_layers(trainer)
    ]
    return {"tensors": tensors, "first": first} if tensors or first else {}


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restore what `state` returned."""
    pruned = names(trainer.lightning_module)
    for name, values in state.get("tensors", {}).items():
        part, leaf = _found(trainer.lightning_module, name)
        if name not in pruned:
            prune.custom_from_mask(part, leaf, values["mask"].to(getattr(part, leaf).device))
        with torch.no_grad():
            for kind in ("orig", "mask"):
                getattr(part, f"{leaf}_{kind}").copy_(values[kind])
        setattr(part, leaf, values["product"].to(getattr(part, leaf).device, copy=True))
    for (copy, leaves), saved in zip(_first_layers(trainer), state.get("first", []), strict=False):
        copy.load_state_dict(saved["weights"])
        for leaf in saved["shared"]:
            getattr(copy, leaf).data = leaves[leaf].data


def as_first_built(
    weights: Mapping[str, Any], module: nn.Module, pruned_at_start: Collection[str]
) -> Mapping[str, Any]:
    """Return a state_dict that fits a new model, whatever training has pruned, and a callback has made of it.

    Args:
        weights: The state_dict.
        module: The model.
        pruned_at_start: Names of the parameters that are pruned in a new model.
    """
    pruned = names(module)
    if not pruned:
        return weights
    found = OrderedDict(sorted(weights.items()))  # the order of the names depends on when each of them was pruned
    for name in sorted(pruned):
        orig, mask = f"{name}_orig", f"{name}_mask"
        if name not in pruned_at_start and orig in found and mask in found:
            found[name] = (found.pop(orig) * found.pop(mask)).detach()
        elif name in pruned_at_start and name in found:
            part, leaf = _found(module, name)
            del found[name]
            found |= {orig: getattr(part, f"{leaf}_orig").detach(), mask: getattr(part, f"{leaf}_mask")}
    if hasattr(weights, "_metadata"):  # torch keeps the versions of the modules there
        found._metadata = weights._metadata
    return found


def as_pruned(weights: Mapping[str, Any], module: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state_dict of a file in the form that fits a module which hooks have pruned since it was loaded.

    Args:
        weights: The state_dict.
        module: The module.
        state: What `state` returned for the checkpoint.
    """
    tensors = state.get("tensors", {})
    found = OrderedDict(weights)
    for name in names(module) & found.keys():
        part, leaf = _found(module, name)
        values = tensors.get(name, {"orig": found[name], "mask": torch.ones_like(getattr(part, f"{leaf}_mask"))})
        del found[name]
        found |= {f"{name}_{kind}": values[kind] for kind in ("orig", "mask")}
    return found


def _found(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, leaf = name.rpartition(".")
    return module.get_submodule(parent), leaf


def _first_layers(trainer: Trainer) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """Yield the copies that `ModelPruning` has made of layers for the lottery ticket, with the parameters of today.

    When it puts the first weights back, it lets the parameter share their memory, so that training changes the copy.
    """
    for callback in trainer.callbacks:
        for layer in ((callback._original_layers or {}) if isinstance(callback, ModelPruning) else {}).values():
            parts = [(callback._parameters_to_prune[number][0], leaf) for number, leaf in layer["names"]]
            yield layer["data"], {leaf: getattr(part, f"{leaf}_orig", getattr(part, leaf)) for part, leaf in parts}


def _shares(copy: nn.Module, leaf: str, now: Tensor) -> bool:
    return bool(getattr(copy, leaf).data_ptr() == now.data_ptr())
