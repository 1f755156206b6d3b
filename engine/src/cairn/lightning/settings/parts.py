"""Reads what a user configures in a training: optimizers, schedulers, metrics, callbacks, frozen parameters."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer
from torch import Tensor, nn
from torchmetrics import Metric

from cairn.lightning.settings import learning_rate

_TOO_LONG = 1000
"""A list or a string with more items is data, not a setting."""
_PROGRESS = frozenset({"T_cur", "T_i", "best", "cooldown_counter", "last_epoch", "num_bad_epochs"})
_PROGRESS |= {"_get_lr_called_within_step", "_is_initial", "_last_lr", "_step_count"}
"""Attributes of torch's schedulers that change in training."""
_DERIVED = frozenset({"initial_lr", "base_lrs", "min_lr", "_schedule_phases"})
"""Settings that follow from others, which a message names."""


class _Other(Exception):
    """A value that is not a setting."""


_OF_STATE = ("state_dict", "on_load_checkpoint")
"""Hooks of a callback that has a state."""


@dataclass(frozen=True)
class Part:
    """An object that a user configures."""

    key: str
    name: str
    """As a message calls it."""
    values: Callable[[], dict[str, Any]]
    """Its attributes, which can be set."""
    made: Mapping[str, Any]
    """Copies of its settings, from before anything was loaded."""
    arguments: frozenset[str] = frozenset()
    """Settings with the name of an argument, which are certainly configured."""
    kind: type = object

    def plain(self) -> dict[str, Any]:
        """Return the settings in a form that a checkpoint can hold."""
        return {name: plain(value) for name, value in self.made.items()}

    def loaded(self) -> dict[str, Any]:
        """Return the current values of the settings, in the same form."""
        values = self.values()
        return {name: plain(values[name]) for name in self.made if name in values and _is_plain(values[name])}

    def changed(self, then: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ from those of an earlier start, with both values."""
        now = self.plain()
        return {name: (then[name], now[name]) for name in now if name in then and not same(then[name], now[name])}

    def set(self, name: str) -> None:
        """Set a setting to what was configured."""
        value, values = copy.deepcopy(self.made[name]), self.values()
        if isinstance(values.get(name), Tensor) and values[name].numel() == 1:
            values[name].fill_(value)  # a compiled optimizer reads this tensor
        else:
            values[name] = value


def plain(value: Any) -> Any:
    """Return a setting as numbers, strings and lists.

    Raises:
        _Other: The value is not a setting.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or type(value) in (bool, int, float, str):
        if isinstance(value, str) and len(value) > _TOO_LONG:
            raise _Other
        return value
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        return plain(value.item())
    if isinstance(value, Mapping) and len(value) <= _TOO_LONG:
        return [[plain(key), plain(item)] for key, item in value.items()]
    if isinstance(value, (list, tuple)) and len(value) <= _TOO_LONG:
        return [plain(item) for item in value]
    raise _Other


def same(one: Any, other: Any) -> bool:
    """Return whether two plain settings are equal; NaN equals NaN."""
    return bool(one == other) or repr(one) == repr(other)


def describe(changes: Mapping[str, tuple[Any, Any]], kept: bool = False) -> list[str]:
    """Return a text for each change, without those that follow from others.

    Args:
        changes: The old and the new value of each setting.
        kept: Whether the old value counts.
    """
    shown = {name: pair for name, pair in changes.items() if name not in _DERIVED}
    if "lr" in shown and "initial_lr" in changes:  # a schedule may begin with a part of the configured rate
        shown["lr"] = changes["initial_lr"]
    if kept:
        return [f"{name.lstrip('_')}={old!r} ({new!r} is configured)" for name, (old, new) in shown.items()]
    return [f"{name.lstrip('_')}={new!r} ({old!r} in the checkpoint)" for name, (old, new) in shown.items()]


def callbacks(trainer: Trainer) -> Iterator[Part]:
    """Yield the callbacks that save a state: loading it may replace their arguments."""
    seen: dict[str, int] = {}
    for callback in trainer.callbacks:
        kind = type(callback)
        saves = any(getattr(kind, name, None) is not getattr(Callback, name) for name in _OF_STATE)
        if isinstance(callback, Checkpoint) or not saves:
            continue
        number = seen[callback.state_key] = seen.get(callback.state_key, 0) + 1
        key = callback.state_key if number == 1 else f"{callback.state_key} {number}"
        names = inspect.signature(type(callback).__init__).parameters
        made = settings_of(vars(callback))
        arguments = frozenset(name for name in made if name in names or name.lstrip("_") in names)
        yield Part(
            key, type(callback).__name__, functools.partial(attributes, callback), made, arguments, type(callback)
        )


def groups(trainer: Trainer) -> Iterator[Part]:
    """Yield the parameter groups of the optimizers."""
    for number, optimizer in enumerate(trainer.optimizers):
        several = len(optimizer.param_groups) > 1
        for index, group in enumerate(optimizer.param_groups):
            name = f"{type(optimizer).__name__}{f', parameter group {index}' if several else ''}"
            made = settings_of({key: value for key, value in group.items() if key != "params"})
            # Not the group itself: loading a state replaces it.
            values = functools.partial(_group, optimizer, index)
            yield Part(f"{number}.{index}", name, values, made, kind=type(optimizer))


def _group(optimizer: Any, index: int) -> dict[str, Any]:
    found: list[dict[str, Any]] = optimizer.param_groups
    return found[index] if index < len(found) else {}


def schedulers(trainer: Trainer) -> Iterator[Part]:
    """Yield the learning-rate schedulers, with those inside of others, and the functions that they call."""
    for number, config in enumerate(trainer.lr_scheduler_configs):
        for key, scheduler in learning_rate.nested(config.scheduler, str(number)):
            name, made = type(scheduler).__name__, settings_of(vars(scheduler))
            made = {item: value for item, value in made.items() if item not in _PROGRESS}
            yield Part(key, name, functools.partial(attributes, scheduler), made, kind=type(scheduler))
            functions = list(dict.fromkeys(getattr(scheduler, "lr_lambdas", [])))
            for index, function in enumerate(functions):
                values = functools.partial(function_settings, function)
                yield Part(f"{key} function {index}", name, values, settings_of(values()))


def function_settings(function: Any) -> dict[str, Any]:
    """Return the values that a function of a LambdaLR depends on: keywords, closure, or attributes."""
    if isinstance(function, functools.partial):
        return function.keywords
    if isinstance(function, FunctionType):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        return {name: cell.cell_contents for name, cell in cells}
    return vars(function) if hasattr(function, "__dict__") else {}


def metrics(module: nn.Module) -> Iterator[Part]:
    """Yield the torchmetrics objects of a module."""
    for key, metric in module.named_modules():
        if isinstance(metric, Metric):
            plain_ones = {name: value for name, value in vars(metric).items() if not name.startswith("_")}
            made = {name: value for name, value in settings_of(plain_ones).items() if name != "training"}
            made = {name: value for name, value in made.items() if name not in metric.metric_state}
            names = inspect.signature(type(metric).__init__).parameters
            arguments = frozenset(name for name in made if name in names)
            yield Part(key, type(metric).__name__, functools.partial(attributes, metric), made, arguments)


def follow_arguments(callbacks: Sequence[Part], then: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    """Set the changed arguments of callbacks that have loaded the earlier ones.

    Args:
        callbacks: The callbacks.
        then: Their settings in the checkpoint, by key; None: an earlier version saved it.

    Returns:
        Texts of the arguments that are as configured, and of those that are not, because they have changed in training.
    """
    followed: list[str] = []
    kept: list[str] = []
    for part in callbacks:
        before = (then or {}).get(part.key, {})
        if then is None and issubclass(part.kind, EarlyStopping):
            before = {name: value for name, value in part.loaded().items() if name in part.arguments}
        for name, pair in part.changed(before).items():
            if same(part.loaded().get(name), pair[0]):
                part.set(name)
            is_set = same(part.loaded().get(name), pair[1])
            if name in part.arguments and is_set:
                followed += [f"{part.name}: {text}" for text in describe({name: pair})]
            elif name in part.arguments:
                kept += [
                    f"{part.name}: {text}" for text in describe({name: (part.loaded().get(name), pair[1])}, kept=True)
                ]
    return followed, kept


def forget_decisions(callbacks: Sequence[Part]) -> None:
    """Let the callbacks that stop a run begin afresh: their state may have been loaded once more."""
    for part in callbacks:
        if issubclass(part.kind, EarlyStopping):
            for name in part.made:
                part.set(name)
        elif issubclass(part.kind, Timer) and "_offset" in part.made:
            part.set("_offset")  # the rest of it is a clock, which runs


def exceptions(module: nn.Module) -> dict[str, list[str]]:
    """Return the names of frozen parameters, and of the modules in evaluation mode."""
    return {
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        "eval": [name for name, part in module.named_modules() if not part.training],
    }


def attributes(thing: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = thing.__dict__
    return attributes


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    settings = {}
    for name, value in values.items():
        if _is_plain(value):
            with suppress(Exception):  # what cannot be copied, such as a tensor that was computed, is not a setting
                settings[name] = copy.deepcopy(value)
    return settings


def _is_plain(value: Any) -> bool:
    try:
        plain(value)
    except Exception:  # one that contains itself, or that raises when it is read, as a configuration does
        return False
    return True
