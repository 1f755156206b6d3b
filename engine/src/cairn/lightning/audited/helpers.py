"""Objects of the user that attributes hold, such as `Net.helper`, and what hooks change in them.

The value of `Net.helper` is one digest of all that it holds. Whether the hooks at the start of an epoch set it again is
a question to each attribute of the helper, and of the helpers that it holds: an epoch is assigned, a list is appended
to, an array is written into.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from cairn.lightning.audited import values
from cairn.lightning.reading import code, owners, parts
from cairn.lightning.reading.attributes import Attributes
from cairn.lightning.reading.fingerprint import OPAQUE, Budget, plain

How = Literal["assigned", "built", "carried"]
"""`assigned`: set before it was read; `built`: it was empty, and was read first; `carried`: changed on from its value.
"""

_DEEPEST, _MOST = 4, 256
"""Helpers in helpers, up to this depth; helpers of one object."""
_PLAIN = (bool, int, float, str, list, tuple, dict, set, deque, Tensor, np.ndarray, np.random.Generator)
"""Values that a hook changes as a whole."""
_OTHERS = (nn.Module, Callback, LightningDataModule, Trainer, Optimizer, FunctionType, MethodType, ModuleType, type)
"""Objects that are audited by themselves, or that have no attributes of the user."""


class Helpers:
    """The attributes of helpers before the hooks at the start of an epoch.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._before: dict[int, tuple[Any, Attributes]] = {}
        self._empty: dict[tuple[int, str], Any] = {}
        """Lists and dicts that were empty, by object and attribute."""

    def remember(self, holders: Iterable[Any]) -> None:
        """Read the attributes of the helpers that objects hold."""
        holders = list(holders)
        helpers = {id(item): item for holder in holders for item in helpers_of(holder)}
        self._before = {key: (item, now) for key, item, now in self._read(helpers)}
        items = [*holders, *helpers.values()]
        kinds = dict.fromkeys(map(type, items))
        self._empty = {
            (id(owner), name): value
            for owner, found in (
                *((kind, code.class_attributes(kind)) for kind in kinds),
                *((item, parts.fields(item)) for item in items),
            )
            for name, value in found
            if issubclass(type(value), list | deque | dict) and not len(value)
        }

    def grows(self, item: Any, name: str, now: Any) -> bool:
        """Whether an attribute that was empty, and was read, has become what each epoch adds to.

        A list that code appends to, or numbers that it adds to. Another dict, an object or a tensor may be built once.

        Args:
            item: The object.
            name: Name of the attribute.
            now: Its value, in the form in which it is compared.
        """
        there = dict([*code.class_attributes(type(item)), *parts.fields(item)]).get(name)
        empty = self._empty.get((id(item), name), self._empty.get((id(type(item)), name)))
        if empty is None or there is not empty:
            return type(now) in (int, float)
        return not isinstance(empty, dict) or all(type(value) in (int, float) for value in dict.values(empty))

    def knows(self, value: Any) -> bool:
        """Whether a value is a helper that was there before."""
        return id(value) in self._before and self._before[id(value)][0] is value

    def changes(self, value: Any, is_assigned: Callable[[Any, str], bool]) -> set[How]:
        """Return how the attributes of a helper, and of those in it, have changed since `remember`.

        Args:
            value: The value of an attribute of an owner.
            is_assigned: Whether the first access to an attribute of an object was an assignment.
        """
        helpers = {id(item): item for item in (value, *helpers_of(value))}
        found: set[How] = set()
        for key, item, now in self._read(helpers):
            known, before = self._before.get(key, (None, {}))
            for name in now.keys() | before.keys() if known is item else ():
                if values.same(before.get(name), now.get(name)):
                    continue
                if is_assigned(item, name) or values.is_unset(now.get(name)):  # reset
                    found.add("assigned")
                elif values.is_unset(before.get(name)) and not self.grows(item, name, now[name]):
                    found.add("built")
                else:
                    found.add("carried")
        return found

    def _read(self, helpers: dict[int, Any]) -> Iterator[tuple[int, Any, Attributes]]:
        """Yield the attributes of each helper, without those of other helpers that they hold."""
        if not helpers:
            return
        saved, budget = owners.saved(self.trainer, owners.owners(self.trainer)), Budget()
        for key, item in helpers.items():
            # A helper in it is compared by itself: here, it counts which one it is.
            read = {
                name: f"object {id(value)}" if is_helper(value) else plain(value, saved, budget)
                for name, value in parts.own(item)
            }
            yield key, item, {name: value for name, value in read.items() if value is not OPAQUE}


def helpers_of(owner: Any) -> list[Any]:
    """Return the helpers that an object holds in its attributes, and those that they hold."""
    found: dict[int, Any] = {}
    waiting = [(owner, 0)]
    while waiting and len(found) < _MOST:
        holder, depth = waiting.pop()
        for _, value in parts.fields(holder) if depth < _DEEPEST else ():
            if is_helper(value) and id(value) not in found and value is not owner:
                found[id(value)] = value
                waiting.append((value, depth + 1))
    return list(found.values())


def is_helper(value: Any) -> bool:
    """Whether a value is an object with attributes of the user, and not a plain value or a container."""
    kind = type(value)
    if issubclass(kind, _OTHERS) or issubclass(kind, _PLAIN):
        return False
    if code.is_library(kind) and not code.is_holder(kind):
        return False
    return bool(code.slots(kind)) or bool(parts.fields(value))
