"""What an object holds: the parts in which it can have state.

Objects are read as they are stored. No property, `__repr__` or iterator of the user runs.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from torchmetrics import Metric

from cairn.data.generators import draws
from cairn.lightning.reading import code, iterators

SCALARS = (bool, int, float, str, type(None))
_PREFIXES = ("__", "_hparams")
"""Beginnings of names that do not belong to the user: `save_hyperparameters` assigns the second ones."""
HPARAMS = "hparams"
"""Attribute that Lightning stores under another name."""
_FRAMEWORK = (nn.Module, Callback, LightningDataModule, Optimizer, LRScheduler, Trainer)
"""Classes with attributes of their own, which are not the user's."""
_ENTRIES = (Trainer, LightningModule, LightningDataModule, DataLoader, Callback, ModuleType)
"""Classes whose objects are not followed: what counts of them is found from the trainer."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CALLABLES = (FunctionType, MethodType, functools.partial, functools._lru_cache_wrapper)
_INNER = {"multiprocessing.sharedctypes": "_obj", "multiprocessing.shared_memory": "_buf"}
"""Attribute that holds the value of an object of the standard library."""
_SEEDED = {"default_rng", "RandomState", "Generator", "Random", "manual_seed", "seed"}
"""Names that a function uses which draws the same numbers at each call."""


def fields(item: Any) -> list[tuple[str, Any]]:
    """Return the attributes that an object itself has, in its dictionary and in its slots."""
    try:
        # That of a thread has a dictionary for each thread, which only its own function returns.
        read = threading.local.__getattribute__ if issubclass(type(item), threading.local) else object.__getattribute__
        found = list(dict.items(read(item, "__dict__")))
    except (AttributeError, TypeError):
        found = []
    for name, member in code.slots(type(item)):
        try:
            found.append((name, member.__get__(item)))
        except AttributeError:  # not assigned
            continue
    return [(name, value) for name, value in found if isinstance(name, str)]


def own(item: Any, packages: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object that the user's code assigns, those of its class, and hooks.

    Of a module of a library, these are its settings, such as `p` of a `Dropout`.
    """
    kind = type(item)
    is_module = issubclass(kind, nn.Module)
    theirs = code.library_names(kind) if issubclass(kind, _FRAMEWORK) else frozenset()
    mine: set[str] = set()
    for name, value in fields(item):
        if name in theirs:
            is_mine = is_module and is_setting(name, value)
        else:
            is_mine = not name.startswith(_PREFIXES) and not _is_method(item, name, value)
        mine |= {name} if is_mine else set()
        if name == "_hparams" and issubclass(kind, LightningModule | LightningDataModule):
            yield HPARAMS, value  # no resume reads them from the checkpoint
        elif is_module and name in _HOOKS and value:
            yield name, list(value.values())  # without the numbers of the handles, which differ between processes
        elif is_mine and not (iterators.is_file(value) and code.seeks(kind)):
            yield name, value
    if not code.is_library(kind):
        for name, value in code.class_attributes(kind, packages):
            if name not in mine:
                yield name, value
        yield from _of_methods(kind, packages)


def _is_method(item: Any, name: str, value: Any) -> bool:
    """Whether an attribute is a method of its object, which its class has, too: Lightning leaves `forward` with DDP."""
    if type(value) is not MethodType or value.__self__ is not item:
        return False
    return value.__func__ is inspect.getattr_static(type(item), name, None)


def is_setting(name: str, value: Any) -> bool:
    """Whether an attribute that a library assigns to a module is a setting: a number, a text, or a tuple."""
    if name == "training" or name.startswith("_"):  # modes are in a checkpoint
        return False
    return type(value) in SCALARS or (type(value) is tuple and all(type(part) in SCALARS for part in value))


@code.cached
def _of_methods(kind: type, packages: frozenset[str]) -> tuple[tuple[str, Any], ...]:
    """Return the functions of a class that have values of their own, such as a default that is a list."""
    found = {function.__name__: function for function in reversed(code.own_functions(kind, packages))}
    return tuple((name, function) for name, function in found.items() if has_values(function))


def has_values(function: FunctionType) -> bool:
    """Whether a function has values of its own: in a closure, a default that is a list, an attribute."""
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return (
        any(name != "__class__" for name in function.__code__.co_freevars)
        or any(type(value) not in SCALARS for value in defaults)
        or any(name != "__wrapped__" for name in vars(function))
    )


def functions(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the functions of the user that an object of a library holds, such as those of a `LambdaCallback`."""
    for name, value in fields(item):
        first = value[0] if type(value) is list and value else value
        if issubclass(type(first), CALLABLES):
            yield name, value


def of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of any object that is not a plain value, a container or an iterator, with their names."""
    kind = type(value)
    if issubclass(kind, FunctionType):
        yield from _of_function(value)
    elif issubclass(kind, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif issubclass(kind, MethodType):
        yield from ((value.__func__.__name__, value.__func__), ("self", value.__self__))
    elif issubclass(kind, functools._lru_cache_wrapper):
        function = vars(value).get("__wrapped__")
        yield "function", function
        if type(function) is FunctionType and draws(function) and not code.names(function.__code__) & _SEEDED:
            yield "number of results", value.cache_info().currsize  # which a resumed run would draw again
    elif issubclass(kind, type) or issubclass(kind, _ENTRIES):
        return
    elif issubclass(kind, nn.Module):
        yield from _of_module(value)
    elif issubclass(kind, Optimizer):
        attributes = dict(fields(value))
        yield "state", list(dict.values(attributes.get("state", {})))
        yield "param_groups", attributes.get("param_groups")
        yield from own(value)
    elif issubclass(kind, LRScheduler):
        yield from ((name, part) for name, part in fields(value) if name not in ("optimizer", "step"))
    elif kind is GradScaler or (issubclass(kind, GradScaler) and code.is_library(kind)):
        yield "state", value.state_dict()
    elif not code.is_library(kind) or code.is_holder(kind):
        yield from own(value)
    elif (name := _INNER.get(kind.__module__)) is not None:
        yield name, dict(fields(value)).get(name)


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    attributes = vars(function)
    if "__wrapped__" in attributes:
        yield "wrapped", attributes["__wrapped__"]
    if not code.is_own(str(function.__globals__.get("__name__"))):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            if name != "__class__":
                yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    yield from zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
    yield from ((name, value) for name, value in attributes.items() if name != "__wrapped__")


def _of_module(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the tensors, modules and attributes of a module that the trained model does not contain."""
    attributes = vars(module)
    for part in ("_parameters", "_buffers", "_modules"):
        yield from ((name, value) for name, value in attributes.get(part, {}).items() if value is not None)
    if isinstance(module, Metric):  # its states are not in its state_dict
        yield from ((name, attributes.get(name)) for name in (*attributes.get("_defaults", ()), "_update_count"))
    yield from own(module)


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor; the class of the object decides, not what the object says."""
    return issubclass(type(value), Tensor)
