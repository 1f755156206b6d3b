"""Layers that training adds, removes or replaces: a resume cannot load the checkpoints that follow.

A file holds tensors, and no classes. Growing buffers and parameter groups are restored (see resized.py and growth.py);
a layer is named as soon as it changes, with the way to build it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from cairn.data.forked import forked
from cairn.lightning.audited.audit import Audit
from cairn.lightning.reading import modules
from cairn.lightning.reading.attributes import MODULES
from cairn.lightning.saved import as_built, pruning
from cairn.lightning.saved.as_built import LAZY, Built
from cairn.writing.mismatch import listed

_CURE = (
    "Build the model as it is now in __init__, configure_model() or setup(); or change it in on_load_checkpoint(), "
    "which gets checkpoint['state_dict']. audit='off' (checkpoint.audit=off) turns this check off."
)
_NOT_TRIED = (
    "on_load_checkpoint() may build it again, but a trial of it has ended without an answer: resume once to find out, "
    "with cairn prove or cairn.testing.assert_exact. audit='off' (checkpoint.audit=off) turns this check off."
)
_LIMIT_S = 10.0
"""A trial of a hook ends when it has taken this long."""
_NUM_READ = 1024
"""Numbers in a tensor up to which a hook may read them: a count of layers, and no weights."""


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
        if found:  # it says more than that the classes of layers have changed
            self.audit.findings.known.add(f"{type(module).__name__}.{MODULES}")
        is_first, self._is_checked = not self._is_checked, True
        if not found or _loads_by_itself(module, built, found):
            return
        if is_first and not module.strict_loading:
            # Hooks before the first batch have added it. They do so again, before the weights are loaded once more.
            self._reported |= found
            return
        answer = "no"
        if is_overridden("on_load_checkpoint", module):
            if contents is None:  # the hook may need what on_save_checkpoint adds to a checkpoint
                return
            answer = _hook_builds(module, built, contents)
        self._reported |= found
        if answer == "yes":
            return
        metrics = {name for name, part in modules.named(module) if isinstance(part, Metric)}
        if found <= metrics:
            self.audit.findings.add(
                sorted(found),
                f"Training adds metrics to {type(module).__name__}: {', '.join(listed(sorted(found)))}. A resume from "
                "the end of an epoch does not restore their state. Create them in __init__ or setup(). audit='off' "
                "(checkpoint.audit=off) turns this check off.",
            )
            return
        done = "; ".join(f"it {what} {', '.join(listed(names))}" for what, names in changes.items() if names)
        text = f"Training changes the layers of {type(module).__name__}: {done}. "
        if answer == "no":
            text += (
                f"A resume builds the model without this change, so that no checkpoint from here on can be loaded. "
                f"{_CURE}"
            )
        else:
            text += _NOT_TRIED
        self.audit.findings.add(sorted(found), text, may_end=answer == "no")
        label = type(module).__name__
        self.audit.findings.explained |= {f"{label}.{name}".rpartition(".")[0] for name in found}


def _changes(module: nn.Module, built: Built) -> dict[str, list[str]]:
    """Return the names of what was added, removed and reshaped, in the order of the model."""
    before, now = built.weights, {**as_built.weights(module), **_buffers_of_new_parts(module, built)}
    if now == before:
        return {}
    pruned = {f"{name}{end}" for name in pruning.names(module) for end in ("", "_orig")}
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


def _hook_builds(module: Any, built: Built, contents: Mapping[str, Any]) -> str:
    """Return whether on_load_checkpoint builds the layers again: `yes`, `no`, or '' if this cannot be tried.

    The hook runs in a forked process, with this model without the data of its tensors: nothing is copied, and nothing
    of it stays.
    """
    weights = {name: _readable(value) for name, value in contents["state_dict"].items()}
    return forked(lambda: _tried(module, built, {**contents, "state_dict": weights}), _LIMIT_S)


def _tried(module: Any, built: Built, contents: dict[str, Any]) -> str:
    modules.forget()
    kept = [*module.parameters(), *module.buffers()]  # a forked process must not release memory of a GPU
    wanted = as_built.weights(module)
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            own |= {name: _without_data(tensor) for name, tensor in own.items()}
    _remove_new(module, built)
    module.to("meta")  # where hooks put new layers on `self.device`
    try:
        module.on_load_checkpoint(contents)
        return "yes" if as_built.weights(module) == wanted else "no"
    finally:
        del kept


def _without_data(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or is_lazy(tensor):
        return tensor
    twin = torch.empty_like(tensor, device="meta")
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _readable(value: Any) -> Any:
    """Return a value of a state_dict as a process without a GPU can read it."""
    if not isinstance(value, Tensor) or is_lazy(value) or value.device.type == "cpu":
        return value
    return value.cpu() if value.numel() <= _NUM_READ else _without_data(value)


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
        elif isinstance(shape, torch.Size) and shape != parameter.shape:
            parameters[leaf] = nn.Parameter(torch.empty(shape, device="meta"))


def _new_parts(module: nn.Module, built: Built) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost parts that a model was not built with."""
    for name, part in module.named_modules():
        if name not in built.parts and name.rpartition(".")[0] in built.parts:
            yield name, part
