"""How the hooks at the start of an epoch have changed an attribute: whether a resume sets it by running them again."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import nn

from cairn.lightning.audited import values
from cairn.lightning.audited.accesses import Accesses
from cairn.lightning.audited.audited import AuditedObjects
from cairn.lightning.audited.helpers import Helpers, How, helpers_of
from cairn.lightning.audited.hook_code import HookCode
from cairn.lightning.reading import attributes, modules
from cairn.lightning.reading.attributes import Attributes
from cairn.lightning.reading.code import is_library, read_by
from cairn.lightning.reading.parts import HPARAMS, SCALARS, fields

_LOADER = "train_dataloader"
"""Method that runs before the hooks at the start of an epoch, and may read what they set."""
_WORST_FIRST: tuple[How, ...] = ("carried", "built")


class HookChanges:
    """Distinguishes what the hooks at the start of an epoch assign from what they change on from its last value.

    Args:
        trainer: The trainer.
        objects: The objects that attributes belong to.
        accesses: The accesses to them.
    """

    def __init__(self, trainer: Trainer, objects: AuditedObjects, accesses: Accesses) -> None:
        self._objects, self._accesses, self._helpers = objects, accesses, Helpers(trainer)
        self._trainer = trainer
        self._code: HookCode | None = None
        self._expected: tuple[Attributes, Attributes, Attributes] = ({}, {}, {})
        self._hparams: dict[str, dict[str, Any]] = {}
        """Hyperparameters before the hooks, by name of the attribute."""
        self._parts: list[str] = []
        """Names of the parts of the model before the hooks."""

    def begin(self) -> None:
        """The hooks are about to run."""
        found = self._objects.all()
        self._accesses.watch(found)
        self._helpers.remember(found.values())
        self._hparams = {f"{label}.{HPARAMS}": _hparams_of(owner) for label, owner in found.items()}
        self._code, self._parts = None, self._names_of_parts()
        self._accesses.hooks_begin()

    def how(self, name: str, before: Attributes, now: Attributes) -> How:
        """Return how hooks have changed an attribute.

        What was empty and is read first is built once, or is the beginning of a dict that grows: the next epoch shows.

        Args:
            name: Name of the attribute.
            before: Values before the hooks.
            now: Values after them.
        """
        owner, attribute = self._objects.find(name)
        value = self._objects.value(name)
        if self._helpers.knows(value):
            found = self._helpers.changes(value, self._is_assigned)
            # What no attribute explains has changed deeper inside than helpers are followed.
            return next((how for how in _WORST_FIRST if how in found), "assigned" if found else "carried")
        if owner is not None and attribute == HPARAMS:
            return "assigned" if self._are_set(name, owner) else "carried"
        if attribute == attributes.MODULES:  # an epoch replaces layers, or adds to those of the last one
            return "assigned" if self._parts == self._names_of_parts() else "carried"
        access = "none" if owner is None else self._accesses.first_in_hooks(owner, attribute)
        if access == "set" or values.is_unset(now.get(name)):  # reset
            return "assigned"
        default = attributes.value_of(inspect.getattr_static(type(owner), attribute, None))
        if values.is_unset(before.get(name, default)):
            if owner is not None and self._helpers.grows(owner, attribute, now[name]) and access == "read":
                return "carried"
            return "built" if access == "read" or name in before else "assigned"
        if access == "none" and type(now[name]) in _NUMBERS and self._sets(attribute):
            return "assigned"
        # Global variables are not watched. What a library assigns to its own objects is not ours.
        return "carried" if access == "read" or owner is None or not is_library(type(owner)) else "assigned"

    def set_first(self, name: str) -> bool:
        """Whether the last hooks have set an attribute before anything else could read it."""
        owner, attribute = self._objects.find(name)
        is_watched = isinstance(owner, nn.Module | Callback) and attribute not in read_by(type(owner), _LOADER)
        return is_watched and self._accesses.first_in_hooks(owner, attribute) == "set"

    def expect(self, hooks: Attributes, training: Attributes, now: Attributes) -> None:
        """A checkpoint from the end of an epoch is loaded: compare with it after the next hooks.

        Args:
            hooks: What hooks had set before it.
            training: What training had changed.
            now: Values after the resume.
        """
        self._expected = (hooks, training, now)

    def lost(self, how: Mapping[str, How], now: Attributes) -> Iterator[tuple[Attributes, Attributes]]:
        """Yield what was expected and not set again by the hooks, with the values instead.

        Args:
            how: How the hooks have changed attributes.
            now: Values after them.
        """
        (hooks, training, before), self._expected = self._expected, ({}, {}, {})
        # What hooks fill only once is not filled with this epoch's value by a run that was not interrupted.
        missing = {name for name in hooks if (how[name] == "built" if name in how else not self._set_again(name, now))}
        yield values.only(missing, hooks), now
        yield values.only({name for name in training if not self.set_first(name)}, training), before

    def _set_again(self, name: str, now: Attributes) -> bool:
        """Whether the hooks have set an attribute, also to the value that it had."""
        owner, attribute = self._objects.find(name)
        if owner is not None and attribute == HPARAMS:
            return any(self._sets(key) for key in _hparams_of(owner))
        access = "none" if owner is None else self._accesses.first_in_hooks(owner, attribute)
        return access == "set" or (access == "none" and type(now.get(name)) in _NUMBERS and self._sets(attribute))

    def _names_of_parts(self) -> list[str]:
        return [name for name, _ in modules.named(self._trainer.lightning_module)]

    def _is_assigned(self, item: Any, name: str) -> bool:
        access = self._accesses.first_in_hooks(item, name)
        value = dict(fields(item)).get(name)
        return access == "set" or (access == "none" and type(value) in SCALARS and self._sets(name))

    def _are_set(self, name: str, owner: Any) -> bool:
        """Whether the hooks have only set those hyperparameters that differ, to numbers or texts."""
        before, now = self._hparams.get(name, {}), _hparams_of(owner)
        changed = [key for key in {**before, **now} if not values.same(before.get(key), now.get(key))]
        plain = dict(getattr(owner, HPARAMS, {}))
        return all(type(plain.get(key)) in SCALARS and key in now and self._sets(key) for key in changed)

    def _sets(self, name: str) -> bool:
        if self._code is None:
            found = self._objects.all()
            self._code = HookCode(self._trainer, [part for item in found.values() for part in helpers_of(item)])
        return self._code.sets(name)


_NUMBERS = (bool, int, float)
"""Values that are compared as they are: a text may be the digest of a list."""


def _hparams_of(owner: Any) -> dict[str, Any]:
    found = dict(fields(owner)).get("_hparams")
    return {key: attributes.value_of(value) for key, value in dict.items(found)} if isinstance(found, dict) else {}
