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
from types import FunctionType, MemberDescriptorType, MethodType
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from cairn.lightning.audited.helpers import helpers_of
from cairn.lightning.audited.watched import MISSING, Watched
from cairn.lightning.reading.code import assigned as assigned_in
from cairn.lightning.reading.code import (
    class_attributes,
    is_holder,
    is_library,
    library_names,
    names,
    text_constants,
)
from cairn.lightning.reading.parts import fields, is_setting

Verdict = Literal["read", "set", "unknown"]
"""`read`: a boundary was followed by a read; `set`: each one by an assignment or no access; `unknown`: not seen."""


_LOOKS = {"__dict__", "vars"}
"""Names in the code of a class that may read attributes of an object, or of its class, without the descriptor."""
_OF_CLASSES = {"type", "__class__", "__mro__", "__bases__"}
"""Names in code that looks at classes: with the ones above, at the dictionary of a class."""
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
        """Whether accesses of batches are noted: until `only_in_hooks`."""
        self._is_closed = False
        self._first: dict[tuple[int, Watched], bool] = {}
        self._watched: dict[tuple[type, str], Watched] = {}
        self._absent: dict[int, tuple[Callable[[], Any], set[str]]] = {}
        """By object: the object, and names of attributes that its code assigns and that do not exist yet."""
        self._before_hooks: dict[tuple[int, Watched], bool] = {}
        self._in_hooks: dict[tuple[int, str], bool] = {}
        """Attributes that the last hooks at the start of an epoch have accessed: whether they have read them first."""

    def watch(self, owners: Mapping[str, Any]) -> None:
        """Watch the attributes that these objects have and that are not watched yet."""
        if self._is_closed:
            return
        found = _parts(owners.values()) if self.active else []
        kinds: set[Any] = {type(owner) for owner in found}
        codes = {kind: _code(kind) for kind in kinds}
        # Callbacks assign attributes of the LightningModule.
        by_all = _Code(*(frozenset[str]().union(*(code[part] for code in codes.values())) for part in range(2)))
        for owner in found:
            if not isinstance(owner, torch.jit.ScriptModule):
                self._watch(owner, by_all if isinstance(owner, LightningModule) else codes[type(owner)])
        if any(map(_reads_classes, map(type, owners.values()))):
            return  # it would find the descriptors instead of defaults
        items = {id(item): item for owner in owners.values() for item in (owner, *helpers_of(owner))}
        of_classes = {kind: {name for name, _ in class_attributes(kind)} for kind in map(type, items.values())}
        for item in items.values():
            self._watch_in_hooks(item, of_classes[type(item)].union(name for name, _ in fields(item)))

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
        self._before_hooks = dict(self._first)
        self._first.clear()  # each descriptor has this very dict
        if not self._is_closed:
            for watched in self._watched.values():
                watched.install()

    def hooks_end(self) -> None:
        """The hooks at the start of an epoch have run."""
        self._first |= {key: False for key in self._appeared() if key not in self._first}
        self._in_hooks = {(key, watched.name): is_read for (key, watched), is_read in self._first.items()}
        for watched in self._watched.values():
            if watched.is_replaced:
                self._in_hooks.setdefault((id(watched.kind), watched.name), False)
            if watched.read or watched.only_in_hooks or not self.active:
                watched.remove()
        seen = {key: is_read for key, is_read in self._first.items() if self.active and not key[1].only_in_hooks}
        self._first.clear()
        self._first |= seen | self._before_hooks
        self._before_hooks.clear()

    def first_in_hooks(self, owner: Any, name: str) -> Literal["read", "set", "none"]:
        """Return what the last hooks at the start of an epoch have first done with an attribute."""
        keys = ((id(item), name) for item in (owner, *type(owner).__mro__))  # itself, or through its class
        is_read = next((self._in_hooks[key] for key in keys if key in self._in_hooks), None)
        return "none" if is_read is None else "read" if is_read else "set"

    def verdict(self, owner: Any, name: str) -> Verdict:
        """Return what is known of an attribute; objects of the same class are judged together."""
        watched = self._watched.get((type(owner), name))
        is_part = isinstance(owner, nn.Module | Callback)
        if is_part and isinstance(inspect.getattr_static(type(owner), name, None), cached_property):
            return "read"  # that is what fills it
        if watched is None or not (watched.read or watched.is_set):
            return "unknown"
        return "read" if watched.read else "set"

    def only_in_hooks(self) -> None:
        """From here on, note accesses only while the hooks at the start of an epoch run. The verdicts stay."""
        self.active = False
        self._absent.clear()
        for watched in self._watched.values():
            watched.remove()

    def close(self) -> None:
        """Remove all descriptors. The verdicts stay."""
        self.only_in_hooks()
        self._is_closed = True

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
            if (kind, name) in self._watched or name[:2] == "__":
                continue
            found = inspect.getattr_static(kind, name, MISSING)
            is_plain = not hasattr(type(found), "__get__") or isinstance(found, MemberDescriptorType)
            if is_plain:
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
    return set(names) - library_names(kind) if is_holder(kind) or not is_library(kind) else set()


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


@cache
def _reads_classes(kind: type) -> bool:
    """Whether the user's code in a class may look at the dictionary of a class, such as `vars(type(self))`."""
    for function in _own_functions(kind):
        named, variables = names(function.__code__), function.__globals__
        if named & _LOOKS and ("cls" in function.__code__.co_varnames or named & _OF_CLASSES):
            return True
        if named & _LOOKS and any(isinstance(variables.get(name), type) for name in named):
            return True
    return False


def _own_functions(kind: type) -> list[FunctionType]:
    members = [member for base in kind.__mro__ if not is_library(base) for member in vars(base).values()]
    functions = [getattr(member, "__wrapped__", member) for member in members]
    return [function for function in functions if isinstance(function, FunctionType)]


def _parts(owners: Iterable[Any]) -> list[nn.Module | Callback]:
    """Return the modules and callbacks among objects; none if a module is compiled."""
    found = [owner for owner in owners if isinstance(owner, nn.Module | Callback)]
    return [] if any(isinstance(part, nn.Module) and _is_compiled(part) for part in found) else found


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
