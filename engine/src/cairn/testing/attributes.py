"""Attributes of the user's own objects, which only a hook of the user can put into a checkpoint.

They are found through the objects that Lightning knows (model, callbacks, data, schedulers) and in the modules that the
user has written. Attributes that a library class sets on itself are left out. Where state can be is decided by the
modules that the audit of a training uses, too; here each value gets a name of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from cairn.lightning.reading import code, fingerprint, iterators, owners, parts
from cairn.lightning.reading.attributes import packages_of
from cairn.lightning.reading.owners import Owner
from cairn.testing.digest import is_plain, is_sampled, shown

_DEEPEST, _MOST_ITEMS, _MOST_FOLLOWED = 12, 64, 10_000
"""Limits of how far nested objects are followed, and how many."""
_ENTRIES = (Trainer, LightningModule, LightningDataModule, DataLoader, Callback, ModuleType)
Roles = dict[str, str]
"""Kind of each object by the name that is shown for it: `model`, `callback`, `dataset`, ..."""


def attributes(trainer: Trainer) -> tuple[dict[str, Any], Roles, list[str]]:
    """Return the attributes by name, such as `Net.temperature`, as JSON values.

    Also return the roles of their owners, and the names of large ones, of which only samples were read.
    """
    found = owners.owners(trainer)
    walk = _Walk(packages_of(found), owners.saved(trainer, found))
    for owner in found:
        walk.owner(owner)
    for module in _own_modules(walk.packages):
        walk.module(module)
    return walk.found, walk.roles, walk.sampled


class _Walk:
    """Collects the attributes of objects, each object once.

    Args:
        packages: Packages of the user's own code.
        saved: Ids of objects that are in every checkpoint, or that are found by themselves.
    """

    def __init__(self, packages: frozenset[str], saved: set[int]) -> None:
        self.found: dict[str, Any] = {}
        self.roles: Roles = {}
        self.sampled: list[str] = []
        self.packages = packages
        self._saved = saved
        self._seen: dict[int, Any] = {}

    def owner(self, owner: Owner) -> None:
        """Collect the attributes of an object that Lightning knows."""
        name = owner.name if owner.number == 1 else f"{owner.name} #{owner.number}"
        own = self._instance(owner.item, owners.attributes(owner, self.packages, with_tried=True))
        for attribute, value in own:
            self.roles[name] = owner.role
            self._value(f"{name}.{attribute}", value, 1)

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
        if depth > _DEEPEST or len(self._seen) > _MOST_FOLLOWED:
            return
        if id(value) in self._seen or id(value) in self._saved or isinstance(value, _ENTRIES):
            return
        self._seen[id(value)] = value
        if isinstance(value, list | tuple | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in list(items)[:_MOST_ITEMS]:
                self._value(f"{name}[{key!r}]", item, depth + 1)
        elif (position := iterators.position(value)) is not None:
            self._position(name, value, position)
        elif isinstance(value, Optimizer | LRScheduler):  # one that Lightning does not know
            self._plain(f"{name}.state_dict()", value.state_dict())
        elif isinstance(value, nn.Module) or self._is_followed(type(value)):
            for attribute, item in self._instance(value, parts.of(value)):
                self._value(f"{name}.{attribute}", item, depth + 1)

    def _is_followed(self, kind: type) -> bool:
        """Whether a class is the user's, or one of a library of which `parts` knows what it holds."""
        return code.is_library(kind) or code.is_own(str(kind.__module__), self.packages)

    def _instance(self, item: Any, found: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Leave out the attributes of classes, which are found in the modules of the classes."""
        held = {name for name, _ in parts.fields(item)}
        classes = {name for kind in type(item).__mro__ for name in vars(kind)} - held
        yield from ((name, value) for name, value in found if name not in classes or isinstance(value, FunctionType))

    def _position(self, name: str, value: Any, position: Any) -> None:
        if position is not iterators.UNKNOWN:
            place = fingerprint.plain(position, self._saved, fingerprint.Budget())
            self.found[name] = f"<{type(value).__name__}, {place if isinstance(place, str) else ''}>"


def _own_modules(packages: frozenset[str]) -> Iterator[ModuleType]:
    """Yield the modules that the user has written."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and code.is_own(name, packages):
            yield module
