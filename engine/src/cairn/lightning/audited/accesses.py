"""Whether training reads an attribute before it sets it: only then can a resumed run depend on its value.

After each boundary, the first access to an attribute decides, because a run may resume from there:

    boundary | hooks at the start of the epoch | batch, validation | boundary | ...
             ^ first access: a read: a resumed run reads what a new object has
               first access: an assignment: a resumed run assigns it, too

A descriptor in the class of the owner notes the accesses. It reads and writes the same place as Python does without it.
It is removed when the first read is seen, so that only attributes that are rarely accessed keep it, and at the end.

An attribute that does not exist yet needs none: it exists at the next boundary if it was set, and a read would fail.
Only if the code asks whether it exists, it gets one before, because this is a read as well.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from types import FunctionType, MethodType, ModuleType
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from cairn.lightning.audited.watched import MISSING, Watched
from cairn.lightning.reading.code import assigned as assigned_in
from cairn.lightning.reading.code import (
    class_attributes,
    is_holder,
    is_library,
    is_own,
    library_names,
    names,
    text_constants,
)
from cairn.lightning.reading.parts import is_setting

Verdict = Literal["read", "set", "unknown"]
"""`read`: a boundary was followed by a read; `set`: each one by an assignment or no access; `unknown`: not seen."""


_LOOKS = {"__dict__", "vars"}
"""Names in the code of a class that may read attributes of an object, or of its class, without the descriptor."""
_ASKS = {"hasattr", "getattr"}
_COMPILED = "_torchdynamo_orig_callable"
"""Attribute of a function that `torch.compile` returns."""
_REGISTERED = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is in every checkpoint."""


class Accesses:
    """The accesses to attributes of the module, its parts and the callbacks.

    Datasets are not watched: processes of a loader read them. Compiled modules are not, because a descriptor would
    compile them again.
    """

    def __init__(self) -> None:
        self.active = True
        """Whether accesses are noted: until `close`."""
        self._first: dict[tuple[int, Watched], bool] = {}
        self._watched: dict[tuple[type, str], Watched] = {}
        self._absent: dict[int, tuple[Callable[[], Any], set[str]]] = {}
        """By object: the object, and names of attributes that its code assigns and that do not exist yet."""
        self._set_in_hooks: set[tuple[int, str]] = set()
        """Attributes that the last hooks at the start of an epoch have set before they read them, if at all."""

    def watch(self, owners: Mapping[str, Any]) -> None:
        """Watch the attributes that these objects have and that are not watched yet."""
        if not self.active:
            return
        compiled = any(_is_compiled(owner) for owner in owners.values() if isinstance(owner, nn.Module))
        found = []
        for owner in owners.values():
            if isinstance(owner, nn.Module | Callback) and not compiled:
                found.append(owner)
            elif _has_attributes(owner):
                self._watch_in_hooks(owner, vars(owner))
        if not found:
            return
        kinds: set[Any] = {type(owner) for owner in found}
        codes = {kind: _code(kind) for kind in kinds}
        # Callbacks assign attributes of the LightningModule.
        by_all = _Code(*(frozenset[str]().union(*names) for names in zip(*codes.values(), strict=True)))
        for owner in found:
            if not isinstance(owner, torch.jit.ScriptModule):
                self._watch(owner, by_all if isinstance(owner, LightningModule) else codes[type(owner)])
                names_of_class = [name for name, _ in class_attributes(type(owner))]
                self._watch_in_hooks(owner, vars(owner) if is_library(type(owner)) else names_of_class)
                for item in vars(owner).values():
                    has_some = getattr(item, "__dict__", None)  # not so the ten empty OrderedDicts in each module
                    if has_some and _has_attributes(item) and not isinstance(item, nn.Module | Callback):
                        self._watch_in_hooks(item, vars(item))

    def boundary(self) -> bool:
        """Note that a boundary is reached. Returns whether an attribute was read first that was not before."""
        news = False
        self._first |= dict.fromkeys(self._appeared(), False)
        for (_, watched), is_read in self._first.items():
            if is_read and not watched.read:
                news = watched.read = True
                watched.remove()
            watched.is_set |= not is_read
        self._first.clear()
        return news

    def forget(self) -> None:
        """Forget the accesses since the last boundary: they came from a save."""
        list(self._appeared())
        self._first.clear()

    def hooks_begin(self) -> None:
        """The hooks at the start of an epoch are about to run: watch what training reads in them, too."""
        if self.active:
            for watched in self._watched.values():
                watched.install()

    def hooks_end(self) -> None:
        """The hooks at the start of an epoch have run."""
        self._set_in_hooks = {(key, watched.name) for (key, watched), is_read in self._first.items() if not is_read}
        for (_, watched), is_read in self._first.items():
            watched.read_in_hooks |= is_read
        for watched in self._watched.values():
            if watched.read or watched.only_in_hooks:
                watched.remove()
        for key in [key for key in self._first if key[1].only_in_hooks]:
            del self._first[key]

    def read_in_hooks(self, owner: Any, name: str) -> bool:
        """Whether hooks at the start of an epoch have read an attribute before they set it."""
        watched = self._watched.get((type(owner), name))
        return watched is not None and watched.read_in_hooks

    def changed_in_hooks(self, item: Any) -> bool:
        """Whether hooks at the start of an epoch have set an attribute of an object that they had read before."""
        watched = (self._watched.get((type(item), name)) for name in getattr(item, "__dict__", ()))
        return any(each is not None and each.is_changed for each in watched)

    def set_in_hooks(self, owner: Any, name: str) -> bool:
        """Whether the last hooks at the start of an epoch have set an attribute, perhaps to the value that it had."""
        return (id(owner), name) in self._set_in_hooks

    def verdict(self, owner: Any, name: str) -> Verdict:
        """Return what is known of an attribute; objects of the same class are judged together."""
        watched = self._watched.get((type(owner), name))
        is_part = isinstance(owner, nn.Module | Callback)
        if is_part and isinstance(inspect.getattr_static(type(owner), name, None), cached_property):
            return "read"  # that is what fills it
        if watched is None or not (watched.read or watched.is_set):
            return "unknown"
        return "read" if watched.read else "set"

    def close(self) -> None:
        """Remove all descriptors. The verdicts stay."""
        self.active = False
        self._absent.clear()
        for watched in self._watched.values():
            watched.remove()

    def _appeared(self) -> Iterator[tuple[int, Watched]]:
        """Watch the attributes that were set for the first time, and yield them with their objects."""
        for key, (owner, absent) in self._absent.items():
            item = owner()
            for name in absent & vars(item).keys() if item is not None else ():
                absent.remove(name)
                if (watched := self._watch_one(type(item), name)) is not None:
                    yield key, watched

    def _watch(self, owner: Any, code: _Code) -> None:
        kind: Any = type(owner)
        if kind.__getattribute__ is not object.__getattribute__ or _reads_dict(kind):
            return  # it may read an attribute past the descriptor
        there, registered = vars(owner).keys(), {name for key in _REGISTERED for name in vars(owner).get(key, ())}
        wanted = {name for name in (there | code.assigned) - library_names(kind) - registered if name[:2] != "__"}
        for name in wanted & (there | code.asked):
            self._watch_one(kind, name)
        known, absent = self._absent.pop(id(owner), (lambda: None, set()))
        before = absent if known() is owner else set()  # what has appeared since then is still to be noted
        if absent := (wanted - there - code.asked) | before:
            self._absent[id(owner)] = (weakref.ref(owner), absent)

    def _watch_in_hooks(self, owner: Any, names: Iterable[str]) -> None:
        """Watch attributes in the hooks at the start of an epoch only, because a batch may read them very often."""
        kind: Any = type(owner)
        for name in _watchable(owner, names):
            is_new = (kind, name) not in self._watched and name[:2] != "__"
            if is_new and not hasattr(type(inspect.getattr_static(kind, name, MISSING)), "__get__"):
                self._watched[kind, name] = Watched(kind, name, self._first, only_in_hooks=True)

    def _watch_one(self, kind: type, name: str) -> Watched | None:
        if (kind, name) in self._watched:
            return None if self._watched[kind, name].only_in_hooks else self._watched[kind, name]
        found = inspect.getattr_static(kind, name, MISSING)
        if isinstance(found, Watched) and found.first is self._first:  # in a base class
            self._watched[kind, name] = found
        elif found is MISSING or isinstance(found, Watched):  # else it would hide a default of the class
            watched = Watched(kind, name, self._first)
            if watched.install():
                self._watched[kind, name] = watched
        return self._watched.get((kind, name))


class _Code(NamedTuple):
    """Names of attributes in the code of a class, of any object."""

    assigned: frozenset[str]
    asked: frozenset[str]
    """Attributes that may be asked for although they do not exist."""


def _watchable(owner: Any, names: Iterable[str]) -> set[str]:
    """Return those among the attributes of an object that the user's code may change on from their last value."""
    kind: Any = type(owner)
    if kind.__getattribute__ is not object.__getattribute__:
        return set()
    if isinstance(owner, nn.Module) and is_library(kind):
        own = vars(owner)
        return {name for name in names if is_setting(name, own.get(name))}
    return set(names) - library_names(kind) if is_holder(kind) or is_own(str(kind.__module__)) else set()


def _has_attributes(item: Any) -> bool:
    return type(getattr(item, "__dict__", None)) is dict and not issubclass(type(item), type | ModuleType)


@cache
def _code(kind: type) -> _Code:
    functions = _own_functions(kind)
    assigned = frozenset[str]().union(*(assigned_in(function.__code__) for function in functions))
    if any("__getattr__" in vars(base) for base in kind.__mro__ if not is_library(base)):
        return _Code(assigned, assigned)
    asked: set[str] = set()
    for code in (function.__code__ for function in functions):
        asked |= text_constants(code) if names(code) & _ASKS else set()
        asked |= names(code) if "AttributeError" in names(code) else set()
    return _Code(assigned, frozenset(asked))


@cache
def _reads_dict(kind: type) -> bool:
    """Whether the user's code in a class may look at the attributes of an object without the descriptor."""
    return any(names(function.__code__) & _LOOKS for function in _own_functions(kind))


def _own_functions(kind: type) -> list[FunctionType]:
    members = [member for base in kind.__mro__ if not is_library(base) for member in vars(base).values()]
    functions = [getattr(member, "__wrapped__", member) for member in members]
    return [function for function in functions if isinstance(function, FunctionType)]


def _is_compiled(part: nn.Module) -> bool:
    functions = [value for value in vars(part).values() if type(value) in (FunctionType, MethodType)]
    return (
        "_orig_mod" in part._modules
        or getattr(part, "_compiled_call_impl", None) is not None
        or any(hasattr(function, _COMPILED) for function in functions)
        or _has_compiled_methods(type(part))  # type: ignore[arg-type]  # every class can be hashed
    )


@cache
def _has_compiled_methods(kind: type) -> bool:
    return any(hasattr(member, _COMPILED) for base in kind.__mro__ for member in vars(base).values())
