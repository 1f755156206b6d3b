"""How the hooks at the start of an epoch have changed an attribute: whether a resume sets it by running them again."""

from __future__ import annotations

import inspect

from lightning.pytorch import Trainer

from cairn.lightning.audited import values
from cairn.lightning.audited.accesses import Accesses
from cairn.lightning.audited.audited import AuditedObjects
from cairn.lightning.audited.helpers import Helpers, How
from cairn.lightning.reading import attributes
from cairn.lightning.reading.attributes import Attributes
from cairn.lightning.reading.code import is_library
from cairn.lightning.reading.parts import HPARAMS

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

    def begin(self) -> None:
        """The hooks are about to run."""
        found = self._objects.all()
        self._accesses.watch(found)
        self._helpers.remember(found.values())
        self._accesses.hooks_begin()

    def how(self, name: str, before: Attributes, now: Attributes) -> How:
        """Return how hooks have changed an attribute.

        What was empty and is read first is built once, or is the beginning of a dict that grows: the next epoch shows.

        Args:
            name: Of the attribute.
            before: Values before the hooks.
            now: Values after them.
        """
        owner, attribute = self._objects.find(name)
        value = self._objects.value(name)
        if self._helpers.knows(value):
            found = self._helpers.changes(value, lambda *key: self._accesses.first_in_hooks(*key) == "set")
            # What no attribute explains has changed deeper inside than helpers are followed.
            return next((how for how in _WORST_FIRST if how in found), "assigned" if found else "carried")
        access = "none" if owner is None else self._accesses.first_in_hooks(owner, attribute)
        if access == "set" or values.is_unset(now.get(name)):  # reset
            return "assigned"
        default = attributes.value_of(inspect.getattr_static(type(owner), attribute, None))
        if values.is_unset(before.get(name, default)):
            if owner is not None and self._helpers.grows(owner, attribute, now[name]) and access == "read":
                return "carried"
            return "built" if access == "read" or name in before else "assigned"
        # Global variables and hyperparameters are not watched. What a library assigns to its own objects is not ours.
        is_unknown = owner is None or attribute == HPARAMS or not is_library(type(owner))
        return "carried" if access == "read" or is_unknown else "assigned"
