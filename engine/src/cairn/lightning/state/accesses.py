"""Whether training reads an attribute before it sets it: only then can a resumed run depend on its value.

After each boundary, the first access to an attribute decides, because a run may resume from there:

    boundary | hooks at the start of the epoch | batch, validation | boundary | ...
             ^ first access: a read: a resumed run reads what a new object has
               first access: an assignment: a resumed run assigns it, too

A descriptor in the class of the owner notes the accesses. It reads and writes the same place as Python does without it.
It is removed when the first read is seen, so that only attributes that are rarely accessed keep it, and at the end.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping
from functools import cache
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from cairn.lightning.state.code import library_names

Verdict = Literal["read", "set", "unknown"]
"""`read`: a boundary was followed by a read; `set`: each one by an assignment or no access; `unknown`: not seen."""


_LIBRARIES = {"torch", "lightning", "builtins", "abc"}
"""Packages of the classes that modules and callbacks derive from."""
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

    def watch(self, owners: Mapping[str, Any]) -> None:
        """Watch the attributes that these objects have and that are not watched yet."""
        parts = [item for item in owners.values() if isinstance(item, nn.Module)]
        if not self.active or any(map(_is_compiled, parts)):
            return
        found = [owner for owner in owners.values() if isinstance(owner, nn.Module | Callback)]
        kinds: set[Any] = {type(owner) for owner in found}
        by_all = frozenset[str]().union(*map(_assigned, kinds))  # callbacks assign attributes of the LightningModule
        for owner in found:
            kind: Any = type(owner)
            if not isinstance(owner, torch.jit.ScriptModule):
                self._watch(owner, by_all if isinstance(owner, LightningModule) else _assigned(kind))

    def boundary(self) -> bool:
        """Note that a boundary is reached. Returns whether an attribute was read first that was not before."""
        news = False
        for (_, watched), is_read in self._first.items():
            if is_read and not watched.read:
                news = watched.read = True
                watched.remove()
            watched.is_set |= not is_read
        self._first.clear()
        return news

    def forget(self) -> None:
        """Forget the accesses since the last boundary: they came from a save."""
        self._first.clear()

    def hooks_begin(self) -> None:
        """The hooks at the start of an epoch are about to run: watch what training reads in them, too."""
        if self.active:
            for watched in self._watched.values():
                watched.install()

    def hooks_end(self) -> None:
        """The hooks at the start of an epoch have run."""
        for (_, watched), is_read in self._first.items():
            watched.read_in_hooks |= is_read
        for watched in self._watched.values():
            if watched.read:
                watched.remove()

    def read_in_hooks(self, owner: Any, name: str) -> bool:
        """Whether hooks at the start of an epoch have read an attribute before they set it."""
        watched = self._watched.get((type(owner), name))
        return watched is not None and watched.read_in_hooks

    def verdict(self, owner: Any, name: str) -> Verdict:
        """Return what is known of an attribute; objects of the same class are judged together."""
        watched = self._watched.get((type(owner), name))
        if watched is None or not (watched.read or watched.is_set):
            return "unknown"
        return "read" if watched.read else "set"

    def close(self) -> None:
        """Remove all descriptors. The verdicts stay."""
        self.active = False
        for watched in self._watched.values():
            watched.remove()

    def _watch(self, owner: Any, assigned: frozenset[str]) -> None:
        kind: Any = type(owner)
        if kind.__getattribute__ is not object.__getattribute__ or _reads_dict(kind):
            return  # it may read an attribute past the descriptor
        names = (vars(owner).keys() | assigned) - library_names(kind)
        for name in names - {name for key in _REGISTERED for name in vars(owner).get(key, ())}:
            if (kind, name) in self._watched or name.startswith("__"):
                continue
            found = inspect.getattr_static(kind, name, _MISSING)
            if isinstance(found, _Watched) and found.first is self._first:  # in a base class
                self._watched[kind, name] = found
            elif found is _MISSING or isinstance(found, _Watched):  # else it would hide a default of the class
                watched = _Watched(kind, name, self._first)
                if watched.install():
                    self._watched[kind, name] = watched


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


@cache
def _reads_dict(kind: type) -> bool:
    """Whether methods of the user's classes among the bases of a class name the dictionary of an object."""
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in _LIBRARIES]
    functions = [value for base in bases for value in vars(base).values() if isinstance(value, FunctionType)]
    return any({"__dict__", "vars"} & set(function.__code__.co_names) for function in functions)


@cache
def _assigned(kind: type) -> frozenset[str]:
    """Return the names of the attributes that the methods of a class assign, to any object."""
    members = [member for base in kind.__mro__ for member in vars(base).values()]
    functions = [getattr(member, "__wrapped__", member) for member in members if isinstance(member, FunctionType)]
    return frozenset(
        step.argval for function in functions for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"
    )


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
