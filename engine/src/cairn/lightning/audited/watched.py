"""A descriptor in a class of the user that notes the first access to an attribute."""

from __future__ import annotations

from contextlib import suppress
from types import MemberDescriptorType
from typing import Any

import torch

MISSING = object()


class Watched:
    """Descriptor that notes the first access to an attribute of each object of a class.

    Args:
        kind: The class.
        name: Name of the attribute.
        first: By object: whether the first access was a read.
        only_in_hooks: Whether it is in the class only during the hooks at the start of an epoch.
    """

    def __init__(
        self, kind: type, name: str, first: dict[tuple[int, Watched], bool], only_in_hooks: bool = False
    ) -> None:
        self.kind, self.name, self.first, self.only_in_hooks = kind, name, first, only_in_hooks
        self.read = self.is_set = self.read_in_hooks = False
        self._default: Any = MISSING
        members = (vars(base).get(name) for base in kind.__mro__)
        members = (member.slot if isinstance(member, Watched) else member for member in members)
        self.slot: Any = next((item for item in members if type(item) is MemberDescriptorType), None)
        """The slot that holds the value; None: the dictionary of the object does."""

    def install(self) -> bool:
        """Add it to the class. Returns False if the class does not take it."""
        found = vars(self.kind).get(self.name, self)
        if self.only_in_hooks and not isinstance(found, Watched):
            self._default = found
        elif not isinstance(found, Watched):  # something else has taken its place
            return False
        try:
            setattr(self.kind, self.name, self)
        except Exception:  # a metaclass may refuse
            return False
        return vars(self.kind).get(self.name) is self

    @property
    def is_replaced(self) -> bool:
        """Whether `Net.losses = []` has taken its place since `install`."""
        return self._default is not MISSING and vars(self.kind).get(self.name) is not self

    def remove(self) -> None:
        """Remove it from the class, unless something else has taken its place."""
        if vars(self.kind).get(self.name) is self:
            with suppress(Exception):  # a metaclass may refuse
                delattr(self.kind, self.name)
                if self._default is not MISSING:
                    setattr(self.kind, self.name, self._default)
        self._default = MISSING

    def _note(self, instance: Any, is_read: bool) -> None:
        if not torch.compiler.is_compiling():  # the identity of an object would become a part of the graph
            self.first.setdefault((id(instance), self), is_read)

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:  # `Net.losses.append(...)`
            value = self._of_class(None, owner)
            if value is MISSING:
                raise AttributeError(f"type object {owner.__name__!r} has no attribute {self.name!r}", name=self.name)
            self._note(self.kind, True)
            return value
        self._note(instance, True)
        if self.slot is not None:
            return self.slot.__get__(instance, owner)
        try:
            return instance.__dict__[self.name]
        except KeyError:
            value = self._of_class(instance, owner)
        if value is MISSING:
            text = f"{type(instance).__name__!r} object has no attribute {self.name!r}"
            raise AttributeError(text, name=self.name, obj=instance)
        return value

    def _of_class(self, instance: Any, owner: type) -> Any:
        """Return the default of the class, or of another base."""
        if self._default is not MISSING:
            return self._default
        bases = owner.__mro__
        for base in bases[bases.index(self.kind) + 1 :]:
            if self.name in vars(base):
                value = vars(base)[self.name]
                return value.__get__(instance, owner) if hasattr(type(value), "__get__") else value
        return MISSING

    def __set__(self, instance: Any, value: Any) -> None:
        self._note(instance, False)
        if self.slot is not None:
            self.slot.__set__(instance, value)
        else:
            instance.__dict__[self.name] = value

    def __delete__(self, instance: Any) -> None:
        self._note(instance, False)
        if self.slot is not None:
            self.slot.__delete__(instance)
            return
        try:
            del instance.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name, name=self.name, obj=instance) from None
