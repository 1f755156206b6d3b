"""Detects plain attributes that change during training and are in no checkpoint.

A resume builds the module, the callbacks and the data again, with the attributes of a new object. What the hooks at the
start of an epoch set is set again (see restart.py), so only other changes count:

    hooks at the start of an epoch | training, validation, end of the epoch | hooks at the start | ...
                                   ^ compared from here         to here     ^ and again
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Set
from typing import Any, get_args

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.errors import ConfigError
from cairn.lightning.state import attributes
from cairn.lightning.state.attributes import Attributes
from cairn.types import AuditMode

_NUM_AUDITED = 3
"""Saves whose attributes are compared: inside an epoch, and as many at the end of one."""
_NUM_SHOWN = 6
_CLOCK_S = 300.0
"""A number this close to a clock is a time: it is different in every process, and says nothing about a resume."""


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
        self.error = ""
        """What was found, in the mode `error`: all ranks have to raise it together."""
        self._base: Attributes | None = None
        """Values after the hooks at the start of the epoch; None before the first one."""
        self._changed: set[str] = set()
        """Names of attributes that have changed in this run, apart from these hooks."""
        self._set_by_hooks: set[str] = set()
        self._num_left = {"batch": _NUM_AUDITED, "epoch": _NUM_AUDITED}
        self._filled: Attributes = {}
        """Values that attributes got which were empty or None: as long as they stay, they may be caches."""
        self._reported: set[str] = set()
        self._expected: Attributes = {}
        """What hooks had set before the checkpoint at the end of an epoch."""

    @property
    def _off(self) -> bool:
        return self.mode == "off" or not self.trainer.is_global_zero

    def epoch_begins(self) -> None:
        """The hooks at the start of an epoch are about to run."""
        if not self._off:
            now = attributes.of_trainer(self.trainer)
            self._changed |= set(_differing(self._base, now))
            self._base = now

    def epoch_begun(self) -> None:
        """The hooks at the start of an epoch have run."""
        if not self._off:
            now = attributes.of_trainer(self.trainer)
            hooks = set(_differing(self._base, now))
            self._changed -= hooks
            self._set_by_hooks |= hooks
            self._base = now
            expected, self._expected = self._expected, {}
            self._compare(_only(expected.keys() - hooks, expected), now)

    def at_save(self, place: str, contents: Mapping[str, Any]) -> dict[str, Attributes]:
        """Report attributes that have changed and are not in the checkpoint, once each.

        Args:
            place: Kind of the boundary.
            contents: Contents of the checkpoint.

        Returns:
            The attributes that have changed so far, for the resume from this checkpoint: in training, and in the
            hooks at the start of an epoch.
        """
        if self._off:
            return {}
        audited = self._num_left[place] > 0
        now = attributes.of_trainer(self.trainer, None if audited else self._changed | self._set_by_hooks)
        changed = self._changed | (set(_differing(self._base, now)) if audited else set())
        if audited:
            self._num_left[place] -= 1
            caches = self._caches(changed, now)
            new = changed - self._reported - caches
            lost = [name for name in now if name in new and not self._is_held(name, now, contents)]
            self._reported |= set(lost)
            if lost:
                self._report(
                    f"Training changes {_listed(lost)}, and no checkpoint holds {'it' if len(lost) == 1 else 'them'}: "
                    f"a resumed run starts with the initial value. {_CURE}{attributes.advice(self.trainer, lost)}"
                )
        hooks = self._set_by_hooks - changed
        return {"training": _only(changed, now), "hooks": _only(hooks, now)}

    def resumed(self, place: str, saved: Mapping[str, Attributes]) -> None:
        """Compare the attributes with those at the save, after everything has been restored.

        Args:
            place: Kind of the boundary of the checkpoint.
            saved: What `at_save` returned for it.
        """
        if self._off:
            return
        self._base = now = attributes.of_trainer(self.trainer)
        training, hooks = saved.get("training", {}), saved.get("hooks", {})
        self._changed |= training.keys()
        self._set_by_hooks |= hooks.keys()
        if place == "epoch":  # the hooks at the start of the next epoch are still to come
            self._expected, hooks = hooks, {}
        self._compare({**training, **hooks}, now)

    def _compare(self, before: Attributes, now: Attributes) -> None:
        lost = [name for name in before if not _same(before[name], now.get(name))]
        lost = [name for name in lost if not _is_time(before[name], now.get(name))]
        # What is still empty may be a cache, which training fills again: the run does not end for it.
        for report, names in (
            (rank_zero_warn, [name for name in lost if _is_unset(now.get(name))]),
            (self._report, [name for name in lost if not _is_unset(now.get(name))]),
        ):
            if names:
                shown = "; ".join(_change(name, before, now) for name in names[:_NUM_SHOWN])
                report(f"This resume is not exact: {shown}{_more(names)}. {_CURE}")
        self._reported |= set(lost)

    def _caches(self, changed: Set[str], now: Attributes) -> set[str]:
        """Return the names of attributes that were unset, and have kept the first value that they got."""
        base = self._base or {}
        for name in changed - self._filled.keys():
            if name in now and _is_unset(base.get(name)):
                self._filled[name] = now[name]
        return {name for name, value in self._filled.items() if name in now and _same(value, now[name])}

    def _is_held(self, name: str, now: Attributes, contents: Mapping[str, Any]) -> bool:
        owner = attributes.owner_of(self.trainer, name)
        attribute, value = name.rpartition(".")[2].lstrip("_"), now[name]
        for held in _held_of(owner, self.trainer, contents):
            for key, item in _leaves(held):
                if key.lstrip("_") == attribute or (not _is_trivial(value) and attributes.value_of(item) == value):
                    return True
        return False

    def _report(self, text: str) -> None:
        if self.mode == "error":
            self.error = self.error or text
        else:
            rank_zero_warn(text)


_CURE = (
    "If training reads it, make it a buffer (self.register_buffer), or save and load it: on_save_checkpoint and "
    "on_load_checkpoint of a module, state_dict and load_state_dict of a callback, a datamodule or a sampler. "
    "audit='off' (checkpoint.audit=off) turns this check off."
)
_OF_LIGHTNING = {
    *("state_dict", "epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks", "optimizer_states"),
    *("lr_schedulers", "hparams_name", "hyper_parameters", "datamodule_hyper_parameters", "datamodule_hparams_name"),
    *("MixedPrecision", "cairn"),
}
"""Keys of a checkpoint that Lightning writes; others come from hooks of the user."""


def _held_of(owner: Any, trainer: Trainer, contents: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the parts of a checkpoint in which the user may have saved an attribute of this object."""
    yield {key: value for key, value in contents.items() if key not in _OF_LIGHTNING}
    if any(owner is part for part in trainer.lightning_module.modules()):  # `in` would compare, as a metric does not
        yield {key: value for key, value in contents["state_dict"].items() if key.endswith("_extra_state")}
    elif (key := getattr(owner, "state_key", None)) is not None:
        yield contents.get("callbacks", {}).get(key, {})
    else:  # the datamodule may save its data sets, and a loader its data set and sampler
        yield contents["loops"]["fit_loop"]["state_dict"]


def _leaves(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    yield key, value
    if depth < 6 and isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name), depth + 1)
    elif depth < 6 and isinstance(value, list | tuple):
        for item in value[:64]:
            yield from _leaves(item, key, depth + 1)


def _differing(before: Attributes | None, now: Attributes) -> Iterator[str]:
    """Yield the names of attributes that have changed or are new; None: nothing is known of before."""
    if before is not None:
        changed = (name for name in now if not (name in before and _same(before[name], now[name])))
        yield from (name for name in changed if attributes.was_there(name, before))


def _same(one: Any, other: Any) -> bool:
    return (type(one), repr(one)) == (type(other), repr(other))  # repr: nan is equal to nan


def _only(names: Set[str], values: Attributes) -> Attributes:
    return {name: value for name, value in values.items() if name in names}


def _is_unset(value: Any) -> bool:
    return value is None or value == attributes.EMPTY


def _is_trivial(value: Any) -> bool:
    return value is None or isinstance(value, bool) or value in ("", -1, 0, 1)


def _is_time(before: Any, now: Any) -> bool:
    """Whether both values are times, the second one of this process."""
    if not (isinstance(before, float) and isinstance(now, float)):
        return False
    return any(abs(now - clock()) < _CLOCK_S for clock in (time.time, time.monotonic, time.perf_counter))


def _change(name: str, before: Attributes, now: Attributes) -> str:
    if name not in now:
        return f"{name} does not exist"
    if any(_is_digest(values[name]) for values in (before, now)):
        return f"{name} has another value"
    return f"{name} is {now[name]!r} and was {before[name]!r}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 16 and set(value) <= set("0123456789abcdef")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NUM_SHOWN]) + _more(names)


def _more(names: list[str]) -> str:
    return f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
