"""Whether the hooks at the start of an epoch set a value without reading it, as their instructions show.

This is for values that no descriptor can watch: global variables, hyperparameters, attributes of a `SimpleNamespace`.
The answer is yes only if all code that these hooks may reach is known, and none of it names the value but to set it:

    on_train_epoch_start -> the names in it -> functions, classes and objects of the user with these names -> ...
"""

from __future__ import annotations

import dis
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from cairn.lightning.reading import attributes, code, owners, parts

Use = Literal["reads", "sets", "none"]

_HOOK = "on_train_epoch_start"
_INDIRECT = {
    *("getattr", "setattr", "delattr", "vars", "dir", "getmembers", "__dict__", "__getattribute__", "__getitem__"),
    *("globals", "locals", "eval", "exec", "__import__", "import_module", "reload", "modules"),
    *("attrgetter", "itemgetter", "methodcaller", "copy", "deepcopy", "asdict", "replace", "dict"),
    *("items", "values", "get", "pop", "popitem", "update", "setdefault"),
}
"""Names of what may read a value without its name in the code."""
_SETS = ("STORE_ATTR", "STORE_GLOBAL")
_READS = ("LOAD_CONST", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "LOAD_METHOD", "DELETE_")
_MERGES = ("DICT_MERGE", "DICT_UPDATE")
"""Instructions, such as those of `**self.hparams`."""
_PLAIN = (*parts.SCALARS, complex, bytes, Tensor, np.ndarray, np.generic, torch.dtype, torch.device, range)
_CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset, dict)
_MOST_FUNCTIONS, _MOST_ITEMS, _DEEPEST = 500, 64, 4


class _Unknown(Exception):
    """The code cannot be followed."""


class HookCode:
    """The code of the user that the hooks at the start of an epoch may reach, as the objects are now.

    Args:
        trainer: The trainer.
        helpers: Objects of the user in the attributes of others.
    """

    def __init__(self, trainer: Trainer, helpers: Iterable[Any]) -> None:
        found = owners.owners(trainer)
        self._packages = attributes.packages_of(found)
        self._hooks = [owner.item for owner in found if isinstance(owner.item, Callback | LightningModule)]
        self._holders = [*(owner.item for owner in found), *helpers]
        self._waiting: list[FunctionType] = []

    def sets(self, name: str) -> bool:
        """Whether the hooks set what has this name, and nothing that they may call reads it."""
        uses = {_use(function.__code__, name) for function in self._reached or ()}
        return "sets" in uses and "reads" not in uses

    @cached_property
    def _reached(self) -> list[FunctionType] | None:
        """The functions; None if not all are known."""
        try:
            for item in self._hooks:
                self._begin(item)
            found: dict[CodeType, FunctionType] = {}
            while self._waiting:
                function = self._waiting.pop()
                if function.__code__ in found or not code.is_own(str(function.__module__), self._packages):
                    continue
                found[function.__code__] = function
                self._follow(function)
                if len(found) > _MOST_FUNCTIONS:
                    raise _Unknown
        except Exception:  # whatever the user's objects and classes raise
            return None
        return list(found.values())

    @cached_property
    def _functions(self) -> dict[str, list[FunctionType]]:
        """Functions of the user in modules and classes, by their names there."""
        found = defaultdict(list)
        kinds: dict[Any, None] = dict.fromkeys(base for holder in self._holders for base in type(holder).__mro__)
        modules = [module for name, module in list(sys.modules.items()) if code.is_own(name, self._packages)]
        for place in (*modules, *(kind for kind in kinds if code.is_own(str(kind.__module__), self._packages))):
            for key, value in _members(place):
                for function in code.chain(value):
                    found[key].append(function)
                    found[function.__name__].append(function)
        return found

    @cached_property
    def _values(self) -> dict[str, list[Any]]:
        """Values of attributes, by name."""
        found = defaultdict(list)
        for holder in self._holders:
            for name, value in (*parts.fields(holder), *code.class_attributes(type(holder), self._packages)):
                found[name].append(value)
        return found

    def _begin(self, item: Any) -> None:
        kind = type(item)
        base = LightningModule if isinstance(item, LightningModule) else Callback
        defined = [
            one for one in kind.__mro__ if vars(one).get(_HOOK, getattr(base, _HOOK)) is not getattr(base, _HOOK)
        ]
        self._waiting += code.chain(vars(item).get(_HOOK))  # of a LambdaCallback
        for one in defined:
            if code.is_library(one):  # it may call any method
                self._waiting += code.own_functions(kind, self._packages)
            self._waiting += code.chain(vars(one)[_HOOK])

    def _follow(self, function: FunctionType) -> None:
        named = code.names(function.__code__)
        if named & _INDIRECT:
            raise _Unknown
        for name in named:
            self._waiting += self._functions.get(name, ())
            for value in (*self._values.get(name, ()), function.__globals__.get(name)):
                self._add(value)
        for _, value in parts.of(function):
            self._add(value)

    def _add(self, value: Any, depth: int = 0) -> None:
        """Add the functions that run if this value is used."""
        kind = type(value)
        if issubclass(kind, _PLAIN) or issubclass(kind, ModuleType):
            return
        if depth > _DEEPEST or kind.__module__ == "operator":  # an `attrgetter` has the name inside
            raise _Unknown
        if issubclass(kind, parts.CALLABLES):
            self._waiting += code.chain(value)
            for _, part in parts.of(value):
                self._add(part, depth + 1)
        elif issubclass(kind, type):
            self._waiting += code.own_functions(value, self._packages)
        elif issubclass(kind, _CONTAINERS) and kind.__module__ == "builtins":
            self._add_items(value, depth)
        elif not code.is_library(kind) and not issubclass(kind, LightningModule | Callback):
            functions = code.own_functions(kind, self._packages)
            self._waiting += [function for function in functions if function.__name__ != "__init__"]
            if not issubclass(kind, nn.Module):  # its parts are among the holders
                for _, part in parts.fields(value):
                    self._add(part, depth + 1)

    def _add_items(self, value: Any, depth: int) -> None:
        items = list(value.values()) if isinstance(value, dict) else list(value)
        if len(items) > _MOST_ITEMS and not all(type(item) in parts.SCALARS for item in items):
            raise _Unknown
        for item in items[:_MOST_ITEMS]:
            self._add(item, depth + 1)


def _members(holder: ModuleType | type, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield what a module or class of the user defines, and what its classes do."""
    module = holder.__name__ if isinstance(holder, ModuleType) else holder.__module__
    for key, value in list(vars(holder).items()):
        yield key, value
        if issubclass(type(value), property):
            yield from ((key, function) for function in (value.fget, value.fset) if function is not None)
        elif issubclass(type(value), type) and value.__module__ == module and depth < _DEEPEST:
            yield from _members(value, depth + 1)


@code.cached
def _use(function: CodeType, name: str) -> Use:
    """Return what a function does with an attribute, global variable or key of a name; a doubtful use is a read."""
    steps = [step for step in dis.get_instructions(function) if step.opname not in ("EXTENDED_ARG", "CACHE")]
    has_keys = "hparams" in function.co_names
    uses: set[Use] = set()
    for before, step, after in zip([None, *steps], steps, [*steps[1:], None], strict=False):
        if step.argval == name or (type(step.argval) is tuple and name in step.argval):
            is_set = step.opname in _SETS or (step.opname == "LOAD_CONST" and _is(after, "STORE_SUBSCR"))
            uses |= {"sets"} if is_set else {"reads"} if step.opname.startswith(_READS) else set()
        elif has_keys and (
            step.opname in _MERGES or (step.opname == "BINARY_SUBSCR" and not _is(before, "LOAD_CONST"))
        ):
            uses.add("reads")
    uses |= {_use(part, name) for part in function.co_consts if isinstance(part, CodeType)}
    return "reads" if "reads" in uses else "sets" if "sets" in uses else "none"


def _is(step: dis.Instruction | None, name: str) -> bool:
    return step is not None and step.opname == name
