"""Layers that training adds, removes or replaces: a resume cannot load the checkpoints that follow.

A file holds tensors, and no classes. Growing buffers and parameter groups are restored (see resized.py and growth.py);
a layer is named as soon as it changes, with the way to build it again.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from cairn.lightning.state import as_built, pruning, unsaved
from cairn.lightning.state.as_built import LAZY, Built
from cairn.lightning.state.audit import Audit
from cairn.writing.mismatch import listed

_CURE = (
    "Build the model as it is now in __init__, configure_model() or setup(); or change it in on_load_checkpoint(), "
    "which gets checkpoint['state_dict']. audit='off' (checkpoint.audit=off) turns this check off."
)


class Layers:
    """Compares the layers of a model with those that it was built with.

    Args:
        trainer: The trainer.
        audit: Says what to do about a change that no resume can repeat.
    """

    def __init__(self, trainer: Trainer, audit: Audit) -> None:
        self.trainer, self.audit = trainer, audit
        self._reported: set[str] = set()
        self._is_checked = False

    def check(self, contents: Mapping[str, Any] | None = None) -> None:
        """Report changes once.

        Args:
            contents: Contents of a checkpoint; None: there is none yet.
        """
        module = self.trainer.lightning_module
        built = as_built.known(module)
        if self.audit.mode == "off" or built is None:
            return
        changes = _changes(module, built)
        found = {name for names in changes.values() for name in names} - self._reported
        is_first, self._is_checked = not self._is_checked, True
        if not found or _loads_by_itself(module, built, found):
            return
        if is_first and not module.strict_loading:
            # Hooks before the first batch have added it. They do so again, before the weights are loaded once more.
            self._reported |= found
            return
        if is_overridden("on_load_checkpoint", module):
            if contents is None:  # the hook may need what on_save_checkpoint adds to a checkpoint
                return
            if _hook_builds(self.trainer, built, contents):
                self._reported |= found
                return
        self._reported |= found
        done = "; ".join(f"it {what} {', '.join(listed(names))}" for what, names in changes.items() if names)
        text = (
            f"Training changes the layers of {type(module).__name__}: {done}. A resume builds the model without this "
            f"change, so that no checkpoint from here on can be loaded. {_CURE}"
        )
        self.audit.findings.add(sorted(found), text)
        label = type(module).__name__
        self.audit.findings.explained |= {f"{label}.{name}".rpartition(".")[0] for name in found}


def _changes(module: nn.Module, built: Built) -> dict[str, list[str]]:
    """Return the names of what was added, removed and reshaped, in the order of the model."""
    pruned = {f"{name}{end}" for name in pruning.names(module) for end in ("", "_orig")}
    before, now = built.weights, {**as_built.weights(module), **_buffers_of_new_parts(module, built)}
    return {
        "adds": [name for name in now if name not in before and name not in pruned],
        "removes": [name for name in before if name not in now and name not in pruned],
        "reshapes": [name for name in now if name in before and LAZY != before[name] != now[name]],
    }


def _buffers_of_new_parts(module: nn.Module, built: Built) -> dict[str, str]:
    """Return buffers whose owner was not there when the model was built."""
    return {
        name: as_built.form(part._buffers[leaf])
        for name, part, leaf in as_built.each_buffer(module)
        if name.rpartition(".")[0] not in built.parts and leaf not in part._non_persistent_buffers_set
    }


def _loads_by_itself(module: nn.Module, built: Built, names: set[str]) -> bool:
    """Whether a part that the model was built with loads its state itself, and so may add what is in it."""
    own = {name for name, part in module.named_modules() if name in built.parts and _has_own_loading(part)}
    return all(any(f"{name}.".startswith(f"{part}.") or not part for part in own) for name in names)


def _has_own_loading(part: nn.Module) -> bool:
    hooks = [getattr(hook, "hook", hook) for hook in part._load_state_dict_pre_hooks.values()]
    functions = [part._load_from_state_dict, type(part).load_state_dict, *hooks]
    return any(not _is_of_libraries(function) for function in functions)


def _is_of_libraries(function: Any) -> bool:
    module = getattr(function, "__module__", None) or ""
    return module.partition(".")[0] in ("torch", "torchmetrics", "lightning")


def _hook_builds(trainer: Trainer, built: Built, contents: Mapping[str, Any]) -> bool:
    """Whether on_load_checkpoint builds the layers again: tried with a copy of the model without tensors' data."""
    module = trainer.lightning_module
    memo: dict[int, Any] = {id(trainer): trainer}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        twin = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if name in built.weights else twin
    before = unsaved.rng_state()
    try:
        twin_module: LightningModule = copy.deepcopy(module, memo)
        _remove_new(twin_module, built)
        twin_module.on_load_checkpoint({**contents, "state_dict": dict(contents["state_dict"])})
        return as_built.weights(twin_module) == as_built.weights(module)
    except Exception:  # the model cannot be copied, or its hook needs what is not there
        return False
    finally:
        unsaved.set_rng_state(before)


def _remove_new(module: nn.Module, built: Built) -> None:
    """Remove what a model was not built with, and give parameters their first shapes."""
    for name in [name for name, _ in _new_parts(module, built)]:
        parent, _, leaf = name.rpartition(".")
        del module.get_submodule(parent)._modules[leaf]
    for name, parameter in list(module.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        parameters, shape = module.get_submodule(parent)._parameters, built.weights.get(name)
        if shape is None:
            del parameters[leaf]
        elif shape not in (LAZY, str(tuple(parameter.shape))):
            parameters[leaf] = nn.Parameter(torch.empty(ast.literal_eval(shape), device="meta"))


def _new_parts(module: nn.Module, built: Built) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost parts that a model was not built with."""
    for name, part in module.named_modules():
        if name not in built.parts and name.rpartition(".")[0] in built.parts:
            yield name, part
