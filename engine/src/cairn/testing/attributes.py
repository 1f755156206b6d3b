"""Attributes of the user's own objects, which only a hook of the user can put into a checkpoint.

They are found through the objects that Lightning knows (model, callbacks, data, schedulers) and in the modules that the
user has written. Attributes that a library class sets on itself are left out.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

from cairn.lightning.loops import boundary
from cairn.lightning.state.attributes import library_names
from cairn.testing.digest import is_plain, is_sampled, shown

_LIBRARIES = {"cairn", "lightning", "lightning_fabric", "pytorch_lightning", "torch", "torchmetrics", "hydra"}
_DEEPEST, _MOST_ITEMS = 4, 64
"""Limits of how far nested objects are followed."""
Roles = dict[str, str]
"""Kind of each object by the name that is shown for it: `model`, `callback`, `dataset`, ..."""


def attributes(trainer: Trainer) -> tuple[dict[str, Any], Roles, list[str]]:
    """Return the attributes by name, such as `Net.temperature`, as JSON values.

    Also return the roles of their owners, and the names of large ones, of which only samples were read.
    """
    walk = _Walk(trainer)
    for role, name, item in _owners(trainer):
        walk.owner(role, name, item)
    for module in _own_modules(walk.packages):
        walk.module(module)
    return walk.found, walk.roles, walk.sampled


def _owners(trainer: Trainer) -> Iterator[tuple[str, str, Any]]:
    model = trainer.lightning_module
    yield "model", type(model).__name__, model
    for name, part in model.named_modules():
        if name:
            yield "model", f"{type(model).__name__}.{name}", part
    for callback in trainer.callbacks:
        yield "callback", type(callback).__name__, callback
    if trainer.datamodule is not None:
        yield "datamodule", type(trainer.datamodule).__name__, trainer.datamodule
    for loader in [*boundary.train_loaders(trainer), *boundary.val_loaders(trainer)]:
        for part in ("dataset", "sampler", "batch_sampler", "collate_fn"):
            item = getattr(loader, part, None)
            for inner in _unwrapped(item) if part == "dataset" else [item]:
                if inner is not None:
                    yield "dataset" if part == "dataset" else "sampler", _name(inner), inner
    for config in trainer.lr_scheduler_configs:
        yield "scheduler", type(config.scheduler).__name__, config.scheduler
    for optimizer in trainer.optimizers:
        yield "optimizer", type(optimizer).__name__, optimizer


def _unwrapped(dataset: Any) -> Iterator[Any]:
    """Yield a dataset and those inside of it: torch's `Subset` and `ConcatDataset` wrap others."""
    yield dataset
    for inner in (getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())):
        if isinstance(inner, Dataset):
            yield from _unwrapped(inner)


class _Walk:
    """Collects the attributes of objects, each object once."""

    def __init__(self, trainer: Trainer) -> None:
        model = trainer.lightning_module
        self.found: dict[str, Any] = {}
        self.roles: Roles = {}
        self.sampled: list[str] = []
        saved = [trainer, model, *model.modules(), *trainer.optimizers, *model.parameters(), *model.buffers()]
        saved += [config.scheduler for config in trainer.lr_scheduler_configs]
        self._saved = {id(item) for item in saved}
        self._seen: set[int] = set()
        self.packages = {_package(type(item)) for _, _, item in _owners(trainer)} - _LIBRARIES - {"builtins"}

    def owner(self, role: str, name: str, item: Any) -> None:
        """Collect the attributes of an object that Lightning knows."""
        if id(item) in self._seen:
            return
        count = sum(other.split(" #")[0] == name for other in self.roles)
        name = f"{name} #{count + 1}" if count else name
        self._seen.add(id(item))
        if isinstance(item, FunctionType):
            self._function(name, item, 0)
        elif _package(type(item)) not in _LIBRARIES:
            self._object(name, item, 0)
        else:
            self._wrapper(role, name, item)
            return
        self.roles[name] = role

    def _wrapper(self, role: str, name: str, item: Any) -> None:
        """Collect the user's objects and functions in an object of a library, such as a sampler or a scheduler."""
        if role not in ("scheduler", "sampler"):
            return
        for attribute, value in list(getattr(item, "__dict__", {}).items()):
            if isinstance(value, Sampler):
                self.owner(role, type(value).__name__, value)
            elif role == "scheduler":
                self.roles[name] = role
                self._follow(f"{name}.{attribute}", value, 1)

    def module(self, module: ModuleType) -> None:
        """Collect the global variables of a module, and the attributes of its classes."""
        name = Path(str(module.__file__)).stem if module.__name__ == "__main__" else module.__name__
        self.roles[name] = "module"
        for key, value in list(vars(module).items()):
            if key.startswith("__") or isinstance(value, ModuleType):
                continue
            if isinstance(value, FunctionType | type) and value.__module__ != module.__name__:
                continue
            if isinstance(value, type):
                for attribute, item in list(vars(value).items()):
                    if not attribute.startswith("__") and not callable(item):
                        self._plain(f"{name}.{key}.{attribute}", item)
            else:
                self._value(f"{name}.{key}", value, 1)

    def _object(self, name: str, item: Any, depth: int) -> None:
        library = library_names(item.__class__)
        slots = {slot: getattr(item, slot) for slot in getattr(type(item), "__slots__", ()) if hasattr(item, str(slot))}
        for attribute, value in [*getattr(item, "__dict__", {}).items(), *slots.items()]:
            if attribute not in library:
                self._value(f"{name}.{attribute}", value, depth + 1)

    def _value(self, name: str, value: Any, depth: int) -> None:
        try:
            if not self._plain(name, value):
                self._follow(name, value, depth)
        except Exception as error:  # the user's classes may do anything when they are read
            self.found[name] = f"<{type(error).__name__} when it is read>"

    def _plain(self, name: str, value: Any) -> bool:
        if id(value) in self._saved:
            return True
        if plain := is_plain(value):
            self.found[name] = shown(value, whole=False)
            if is_sampled(value):
                self.sampled.append(name)
        return plain

    def _follow(self, name: str, value: Any, depth: int) -> None:
        """Follow a value that is not plain: the user's objects, functions with variables of their own, containers."""
        if depth > _DEEPEST or id(value) in self._seen or id(value) in self._saved:
            return
        if isinstance(value, Trainer | LightningModule | LightningDataModule | DataLoader | Callback | ModuleType):
            return
        self._seen.add(id(value))
        if isinstance(value, list | tuple | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in list(items)[:_MOST_ITEMS]:
                self._value(f"{name}[{key!r}]", item, depth + 1)
        elif isinstance(value, nn.Module):  # not a part of the model: Lightning does not save it
            for key, item in [*value.named_parameters(), *value.named_buffers()]:
                self._plain(f"{name}.{key}", item.detach())
            if _is_own(type(value), self.packages) or hasattr(value, "metric_state"):
                self._object(name, value, depth)
                self._plain(f"{name}.metric_state", getattr(value, "metric_state", None))
        elif isinstance(value, FunctionType | functools.partial):
            self._function(name, value, depth)
        elif isinstance(value, Optimizer):  # one that Lightning does not know
            self._plain(f"{name}.state_dict()", value.state_dict())
        elif _is_own(type(value), self.packages):
            self._object(name, value, depth)

    def _function(self, name: str, function: Any, depth: int) -> None:
        if isinstance(function, functools.partial):
            for number, item in enumerate([*function.args, *function.keywords.values()]):
                self._value(f"{name}.args[{number}]", item, depth + 1)
            return
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._value(f"{name}.{variable}", cell.cell_contents, depth + 1)
            except ValueError:  # not assigned yet
                continue
        for variable, value in [*vars(function).items(), *enumerate(function.__defaults__ or ())]:
            if isinstance(value, list | dict | set) or isinstance(variable, str):
                self._value(f"{name}.{variable}", value, depth + 1)


def _own_modules(packages: set[str]) -> Iterator[ModuleType]:
    """Yield the modules that the user has written."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and _is_own_module(name, packages):
            yield module


def _is_own(kind: type, packages: set[str]) -> bool:
    return _package(kind) in packages or _is_own_module(kind.__module__, packages)


def _is_own_module(name: str, packages: set[str]) -> bool:
    package = name.partition(".")[0]
    if package in _LIBRARIES or package in sys.stdlib_module_names:
        return False
    return package in packages or _lies_outside_of_libraries(name)


def _lies_outside_of_libraries(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and not _is_of_libraries(os.path.dirname(file))


@functools.cache
def _is_of_libraries(directory: str) -> bool:
    path = Path(directory).resolve()
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return True
    return any(path.is_relative_to(Path(sysconfig.get_path(key)).resolve()) for key in ("stdlib", "platstdlib"))


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _name(item: Any) -> str:
    return str(getattr(item, "__name__", type(item).__name__))
