"""Buffers to which training gives another form: it fills one that is None, lets one grow, registers or removes one.

A model that is built for a resume has them as they were at first, and `load_state_dict` refuses what is in the file:

    built            trained               file            built again
    proto  None      proto  (64,)   --->   proto (64,)     proto  None    <- takes the form in the file, then its values
    seen   (0,)      seen   (12,)          seen  (12,)     seen   (0,)

A checkpoint names these buffers, with their forms at first and at the save. Only they take the form in the file, and
only in a model that was built in the same way: a buffer that has another size because a setting has changed is still
refused by torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cairn.lightning.saved import as_built, pruning, unsaved
from cairn.lightning.saved.as_built import ABSENT, EMPTY, LAZY, Built

Record = Mapping[str, Sequence[str]]
"""Forms of a buffer at first and now, by its name."""


def record(module: nn.Module) -> dict[str, list[str]]:
    """Return the buffers that have another form than when the model was built, as plain values."""
    built = as_built.known(module)
    if built is None:
        return {}
    return {name: [built.first(name), now] for name, now in sorted(_changed(module, built))}


def recorded(contents: Mapping[str, Any]) -> Record:
    """Return the record in a checkpoint."""
    ours = contents.get(unsaved.KEY)
    found: Record = ours.get("growth", {}).get("buffers", {}) if isinstance(ours, Mapping) else {}
    return found


def watch(strategy: Strategy) -> None:
    """Let a strategy note how models are built, and load what training has made of their buffers."""
    # Partial functions of the strategy, which copies of a trainer and pickles for other processes take along.
    if "load_model_state_dict" not in vars(strategy):
        strategy.load_model_state_dict = partial(_load, strategy)  # type: ignore[method-assign]
        strategy.setup = partial(_set_up, strategy)  # type: ignore[method-assign]


def adopt(module: nn.Module, weights: Mapping[str, Any], changed: Record) -> None:
    """Give the buffers of a module the forms that they have in a file, before it is loaded.

    Args:
        module: The module; training may have changed it, too.
        weights: The state_dict in the file.
        changed: What `record` returned for the file.
    """
    built = as_built.note(module)
    persistent = {*as_built.persistent(module), *weights}
    names = {*changed, *(name for name, _ in _changed(module, built) if name in persistent)}
    # In the order of the file, which is the one in which training has registered them.
    for name in [*(name for name in weights if name in names), *sorted(names - weights.keys())]:
        value, first = weights.get(name), built.first(name)
        if value is not None and (not isinstance(value, Tensor) or is_lazy(value)):
            continue
        if name in changed:
            first_there, there = changed[name]
        elif value is None:
            first_there = there = first
        else:
            first_there = there = as_built.form(value)
        if _loosely(first_there) != _loosely(first) or (value is None and there not in (ABSENT, EMPTY)):
            continue
        built.buffers.setdefault(name, ABSENT)
        if value is not None and first_there != first:  # another precision, which the new run has chosen
            value = value.to(_dtype(first, value.dtype))
        if as_built.form(value) != as_built.buffers(module).get(name, ABSENT):
            unsaved.put_buffer(module, name, value, is_registered=there != ABSENT)


def restore(module: nn.Module, changed: Record, own: Mapping[str, Tensor], is_alone: bool) -> None:
    """Remove the tensors of buffers that were without one at the save.

    Args:
        module: The module, with the weights of a checkpoint.
        changed: What `record` returned for it, on rank 0.
        own: Buffers that this rank has restored by itself; all that it had, unless it is alone.
        is_alone: Whether there is one process.
    """
    built = as_built.note(module)
    for name, (first, there) in changed.items():
        if name in own or _loosely(first) != _loosely(built.first(name)):
            continue
        if there in (ABSENT, EMPTY) or not is_alone:
            unsaved.put_buffer(module, name, None, is_registered=ABSENT not in (first, there))


def _load(strategy: Strategy, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
    module = strategy.lightning_module
    assert module is not None
    _convert(strategy)
    adopt(module, checkpoint["state_dict"], recorded(checkpoint))
    type(strategy).load_model_state_dict(strategy, checkpoint, strict=strict)


def _set_up(strategy: Strategy, trainer: Trainer) -> None:
    if trainer.state.fn == TrainerFn.FITTING:
        _convert(strategy)
        as_built.note(trainer.lightning_module, is_complete=True)
    type(strategy).setup(strategy, trainer)


def _convert(strategy: Strategy) -> None:
    """Give the model the precision that `Strategy.setup` gives it.

    Before weights are loaded, because float64 would lose bits in a float32 model; and before forms are noted.
    """
    module = strategy.lightning_module
    if module is not None and isinstance(strategy.precision_plugin, DoublePrecision | HalfPrecision):
        strategy.precision_plugin.convert_module(module)


def _changed(module: nn.Module, built: Built) -> Iterator[tuple[str, str]]:
    now = as_built.buffers(module)
    if now == built.buffers:
        return
    masks = {f"{name}_mask" for name in pruning.names(module)}  # see pruning.py
    for name in {**built.buffers, **now}:
        form = now.get(name, ABSENT)
        if form != built.first(name) and LAZY not in (form, built.first(name)) and name not in masks:
            yield name, form


def _loosely(form: str) -> str:
    """Return a form in which all floating-point types are the same: a run may choose another precision."""
    return re.sub(r"^b?float\d+ ", "float ", form)


def _dtype(form: str, default: torch.dtype) -> torch.dtype:
    found = getattr(torch, form.partition(" ")[0], default)
    return found if default.is_floating_point and found.is_floating_point else default
