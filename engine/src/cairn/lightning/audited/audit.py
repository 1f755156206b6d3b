"""Detects plain attributes that change during training and are in no checkpoint.

A resume builds the module, the callbacks and the data again, with the attributes of a new object. What the hooks at the
start of an epoch set is set again (see restart.py), so only other changes count:

    hooks at the start of an epoch | training, validation, end of the epoch | hooks at the start | ...
                                   ^ compared from here         to here     ^ and again

A change matters only if training reads the value before it sets it again: accesses.py notes which of the two comes
first. A timer, or an image that each batch sets, is not reported. A hook at the start of an epoch that reads what it
changes (`self.tau *= 0.7`) does not set the same value in a resumed run: it is reported like a change by training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from lightning.pytorch import Trainer

from cairn.errors import ConfigError
from cairn.lightning.audited import held, values
from cairn.lightning.audited.accesses import Accesses, Verdict
from cairn.lightning.audited.at_start import at_start
from cairn.lightning.audited.audited import AuditedObjects
from cairn.lightning.audited.caches import Caches
from cairn.lightning.audited.findings import Findings
from cairn.lightning.audited.hook_changes import HookChanges
from cairn.lightning.reading import attributes, owners
from cairn.lightning.reading.attributes import Attributes
from cairn.types import AuditMode

_NUM_AUDITED = 3
"""Saves of which all attributes are compared: the first ones inside an epoch, the first ones at the end of one, and of
later ones those with the numbers 4, 8, 16, ..."""
_NUM_WATCHED = 2
"""Epochs in which accesses of batches are watched; those of the hooks at the start of an epoch are in all."""


def check_mode(mode: str) -> None:
    """Check the argument `audit` of a `Checkpointer`.

    Raises:
        ConfigError: It is none of the modes.
    """
    if mode not in get_args(AuditMode):
        raise ConfigError(f"audit={mode!r} must be one of {', '.join(get_args(AuditMode))}.", parameter="audit")


class Audit:
    """Compares the plain attributes of one process with each other, and with those of the process before a resume.

    Args:
        trainer: The trainer.
        mode: What to do about an attribute that no checkpoint holds: warn, raise an error, or do not look.
    """

    def __init__(self, trainer: Trainer, mode: AuditMode) -> None:
        self.trainer, self.mode = trainer, mode
        self.watches = mode != "off"
        """Whether accesses are watched: in the first epochs."""
        self.findings = Findings(mode)
        """What is to be reported, by all ranks together."""
        self._objects, self._accesses, self._caches = AuditedObjects(trainer), Accesses(), Caches()
        self._hooks = HookChanges(trainer, self._objects, self._accesses)
        self._base: Attributes | None = None
        """Values after the hooks at the start of the epoch; None before the first one."""
        self._changed: set[str] = set()
        """Names of attributes that have changed in this run, apart from these hooks."""
        self._set_by_hooks: set[str] = set()
        self._at_start: Attributes | None = None
        """What hooks before the first epoch of this run have set, and its tensors."""
        self._num_saves = {"batch": 0, "epoch": 0}
        self._num_epochs = self._num_boundaries = 0

    @property
    def _off(self) -> bool:
        return self.mode == "off"

    def epoch_begins(self) -> None:
        """The hooks at the start of an epoch are about to run."""
        if self._off:
            return
        now, replaced = attributes.of_trainer(self.trainer), self._objects.update()
        changed = {name for name in values.differing(self._base, now) if name.rpartition(".")[0] not in replaced}
        self._caches.note(changed, self._base, now)
        self._changed |= changed
        self._base = now
        if self._at_start is None:
            self._at_start = at_start(self.trainer, now, self._objects.value_or_global)
        if self._num_epochs == _NUM_WATCHED:
            self.watches = False
            self._accesses.only_in_hooks()
        self._num_epochs += 1
        self._hooks.begin()

    def epoch_begun(self) -> None:
        """The hooks at the start of an epoch have run."""
        if self._off:
            return
        self._accesses.hooks_end()
        now, before = attributes.of_trainer(self.trainer), self._base or {}
        hooks = set(values.differing(self._base, now))
        how = {name: self._hooks.how(name, before, now) for name in hooks}
        carried = {name for name in hooks if how[name] == "carried"}
        self._changed = (self._changed - hooks) | carried
        self._set_by_hooks |= hooks - carried
        self._base = now
        for lost, instead in self._hooks.lost(how, now):
            self.findings.lost(lost, instead)

    def at_boundary(self) -> None:
        """A boundary is reached while accesses are watched. This takes microseconds."""
        if self._accesses.boundary():
            self.findings.recheck(self._is_read)
        self._num_boundaries += 1
        if self._num_boundaries <= _NUM_AUDITED:  # the first batches create attributes
            self._accesses.watch(self._objects.all())

    def at_save(self, place: str, contents: Mapping[str, Any]) -> dict[str, Attributes]:
        """Report attributes that have changed and are not in the checkpoint, once each.

        Args:
            place: Kind of the boundary.
            contents: Contents of the checkpoint.

        Returns:
            The attributes that have changed so far, for the resume from this checkpoint: those of `training`; those
            that training sets before it reads them, `set`; those of the hooks at the start of an epoch, `hooks`; and
            those from the start of the run, `start`.
        """
        if self._off:
            return {}
        self._accesses.forget()
        self._num_saves[place] += 1
        number = self._num_saves[place]
        audited = number <= _NUM_AUDITED or number & (number - 1) == 0
        found = owners.owners(self.trainer) if audited else None
        now = attributes.of_trainer(self.trainer, None if audited else self._changed | self._set_by_hooks, found)
        changed = self._changed | (set(values.differing(self._base, now)) if audited else set())
        self._caches.note(changed, self._base, now)
        known = self.findings.known | self._caches.names(now, self._objects.value, self._is_read)
        new = [name for name in now if name in changed - known]
        new = [name for name in new if name.rpartition(".")[0] not in self.findings.explained]
        new = [name for name in new if not held.holds(contents, self._objects.find(name), now[name], self.trainer)]
        if place == "epoch":  # a resume from here runs the hooks at the start of an epoch
            new = [name for name in new if not self._hooks.set_first(name)]
        harmless = {name for name in changed if self._verdict(name) == "set"}
        self.findings.changed(new, harmless, self._advice)
        if found is not None:
            self._accesses.watch(attributes.by_label(found))
        kinds = {"training": changed - harmless, "set": harmless, "hooks": self._set_by_hooks - changed}
        saved = {key: values.only(names, now) for key, names in kinds.items()}
        start = self._at_start or {}
        return saved | {"start": values.only(start.keys() - changed - self._set_by_hooks, start)}

    def resumed(self, place: str, saved: Mapping[str, Attributes], goes_on: bool = True) -> None:
        """Compare the attributes with those at the save, after everything has been restored.

        Args:
            place: Kind of the boundary of the checkpoint.
            saved: What `at_save` returned for it.
            goes_on: Whether the same run goes on; else a new one starts from the checkpoint.
        """
        if self._off:
            return
        self._base = now = attributes.of_trainer(self.trainer)
        self._objects.update()
        kept = {
            key: self._objects.without_opened(saved.get(key, {}), now) for key in ("training", "set", "hooks", "start")
        }
        training, harmless, hooks = kept["training"], kept["set"], kept["hooks"]
        self._at_start = kept["start"] if goes_on else None
        self.findings.lost(self._at_start or {}, now)
        self._changed |= training.keys() | harmless.keys()
        self._set_by_hooks |= hooks.keys()
        if place == "epoch":  # the hooks at the start of the next epoch are still to come
            self._hooks.expect(hooks, training, now)
            hooks, training = {}, {}
        self.findings.lost({**training, **hooks}, now)
        self.findings.lost_if_read(harmless, now)
        self._accesses.watch(self._objects.all())

    def close(self) -> None:
        """Watch no longer: leave the classes of the user as they were."""
        self.watches = False
        self._accesses.close()

    def _advice(self, names: list[str]) -> str:
        return self._objects.growth(names) + attributes.advice(self.trainer, names)

    def _verdict(self, name: str) -> Verdict:
        return "set" if self._objects.is_stamp(name) else self._accesses.verdict(*self._objects.find(name))

    def _is_read(self, name: str) -> bool:
        return self._verdict(name) == "read"
