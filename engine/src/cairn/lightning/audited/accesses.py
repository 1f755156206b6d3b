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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from types import FunctionType, MethodType
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from cairn.lightning.reading.code import assigned as assigned_in
from cairn.lightning.reading.code import is_library, library_names, names, text_constants

Verdict = Literal["read", "set", "unknown"]
"""`read`: a boundary was followed by a read; `set`: each one by an assignment or no access; `unknown`: not seen."""


_LOOKS = {"__dict__", "vars"}
"""Names in the code of a class that may read attributes of an object, or of its class, without the descriptor."""
_ASKS = {"hasattr", "getattr"}
_MISSING = object()
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
        self._first: dict[tuple[int, _Watched], bool] = {}
        self._watched: dict[tuple[type, str], _Watched] = {}
        self._absent: dict[int, tuple[Callable[[], Any], set[str]]] = {}
        """By object: the object, and names of attributes that its code assigns and that do not exist yet."""
        self._set_in_hooks: set[tuple[int, str]] = set()
        """Attributes that the last hooks at the start of an epoch have set before they read them, if at all."""

    def watch(self, owners: Mapping[str, Any]) -> None:
        """Watch the attributes that these objects have and that are not watched yet."""
        parts = [item for item in owners.values() if isinstance(item, nn.Module)]
        if not self.active or any(map(_is_compiled, parts)):
            return
        found = [owner for owner in owners.values() if isinstance(owner, nn.Module | Callback)]
        if not found:
            return
        kinds: set[Any] = {type(owner) for owner in found}
        codes = {kind: _code(kind) for kind in kinds}
        # Callbacks assign attributes of the LightningModule.
        by_all = _Code(*(frozenset[str]().union(*names) for names in zip(*codes.values(), strict=True)))
        for owner in found:
            if not isinstance(owner, torch.jit.ScriptModule):
                self._watch(owner, by_all if isinstance(owner, LightningModule) else codes[type(owner)])

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
            if watched.read:
                watched.remove()

    def read_in_hooks(self, owner: Any, name: str) -> bool:
        """Whether hooks at the start of an epoch have read an attribute before they set it."""
        watched = self._watched.get((type(owner), name))
        return watched is not None and watched.read_in_hooks

    def set_in_hooks(self, owner: Any, name: str) -> bool:
        """Whether the last hooks at the start of an epoch have set an attribute, perhaps to the value that it had."""
        return (id(owner), name) in self._set_in_hooks

    def verdict(self, owner: Any, name: str) -> Verdict:
        """Return what is known of an attribute; objects of the same class are judged together."""
        watched = self._watched.get((type(owner), name))
        if watched is None or not (watched.read or watched.is_set):
            return "unknown"
        return "read" if watched.read else "set"

    def close(self) -> None:
        """Remove all descriptors. The verdicts stay."""
        self.active = False
        self._absent.clear()
        for watched in self._watched.values():
            watched.remove()

    def _appeared(self) -> Iterator[tuple[int, _Watched]]:
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

    def _watch_one(self, kind: type, name: str) -> _Watched | None:
        if (kind, name) in self._watched:
            return self._watched[kind, name]
        found = inspect.getattr_static(kind, name, _MISSING)
        if isinstance(found, _Watched) and found.first is self._first:  # in a base class
            self._watched[kind, name] = found
        elif found is _MISSING or isinstance(found, _Watched):  # else it would hide a default of the class
            watched = _Watched(kind, name, self._first)
            if watched.install():
                self._watched[kind, name] = watched
        return self._watched.get((kind, name))


class _Watched:
    """Descriptor that notes the first access to an attribute of each object of a class.

    Args:
        kind: The class.
        name: Name of the attribute.
        first: By object: whether the first access was a read.
    """

    def __init__(self, kind: type, name: str, first: dict[tuple[int, _Watched], bool]) -> None:
        self.kind, self.name, self.first = kind, name, first
        self.read = self.is_set = self.read_in_hooks = False

    def install(self) -> bool:
        """Add it to the class. Returns False if the class does not take it."""
        found = vars(self.kind).get(self.name, self)
        if not isinstance(found, _Watched):  # something else has taken its place
            return False
        try:
            setattr(self.kind, self.name, self)
        except Exception:  # a metaclass may refuse
            return False
        return vars(self.kind).get(self.name) is self

    def remove(self) -> None:
        """Remove it from the class, unless something else has taken its place."""
        if vars(self.kind).get(self.name) is self:
            with suppress(Exception):  # a metaclass may refuse
                delattr(self.kind, self.name)

    def _note(self, instance: Any, is_read: bool) -> None:
        if not torch.compiler.is_compiling():  # the identity of an object would become a part of the graph
            self.first.setdefault((id(instance), self), is_read)

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self.name!r}", name=self.name)
        self._note(instance, True)
        try:
            return instance.__dict__[self.name]
        except KeyError:
            pass
        bases = type(instance).__mro__
        for base in bases[bases.index(self.kind) + 1 :]:  # another base may have a default
            if self.name in vars(base):
                value = vars(base)[self.name]
                return value.__get__(instance, owner) if hasattr(type(value), "__get__") else value
        text = f"{type(instance).__name__!r} object has no attribute {self.name!r}"
        raise AttributeError(text, name=self.name, obj=instance)

    def __set__(self, instance: Any, value: Any) -> None:
        self._note(instance, False)
        instance.__dict__[self.name] = value

    def __delete__(self, instance: Any) -> None:
        self._note(instance, False)
        try:
            del instance.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name, name=self.name, obj=instance) from None


class _Code(NamedTuple):
    """Names of attributes in the code of a class, of any object."""

    assigned: frozenset[str]
    asked: frozenset[str]
    """Attributes that may be asked for although they do not exist."""


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
    functions = [value for value in vars(part).values() if isinstance(value, FunctionType | MethodType)]
    return (
        "_orig_mod" in part._modules
        or getattr(part, "_compiled_call_impl", None) is not None
        or any(hasattr(function, _COMPILED) for function in functions)
        or _has_compiled_methods(type(part))  # type: ignore[arg-type]  # every class can be hashed
    )


@cache
def _has_compiled_methods(kind: type) -> bool:
    return any(hasattr(member, _COMPILED) for base in kind.__mro__ for member in vars(base).values())
