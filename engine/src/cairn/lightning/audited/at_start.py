"""Attributes that training does not change, and that may be different in the next process.

    set by on_fit_start, on_train_start      a resume runs them with the restored weights and epoch
    tensors, arrays, numbers of many digits  they may be drawn from a generator that nothing seeds, or be other data

A save holds what they are at the start of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from cairn.lightning.reading import attributes, code, owners
from cairn.lightning.reading.attributes import Attributes

_HOOKS = ("on_fit_start", "on_train_start")
_BUILD = {"__init__", "__post_init__", "setup", "configure_model", "prepare_data", *_HOOKS}
_NUM_DIGITS = 12
"""Length of a number as text, up to which it may stand in the code or in a configuration."""


def at_start(trainer: Trainer, now: Attributes, value: Callable[[str], Any]) -> Attributes:
    """Return those of the attributes that a resume compares although training does not change them.

    Args:
        trainer: The trainer.
        now: All attributes.
        value: Returns the attribute of a name itself.
    """
    found = owners.owners(trainer)
    with_hooks = {type(owner.item) for owner in found if isinstance(owner.item, LightningModule | Callback)}
    assigned = frozenset[str]().union(*(code.assigned_by(kind, *_HOOKS) for kind in with_hooks))
    named = frozenset[str]().union(
        *(code.read_by(kind, hook, with_texts=True) for kind in with_hooks for hook in _HOOKS)
    )
    later = _assigned_later(attributes.packages_of(found), {type(owner.item) for owner in found})

    def is_compared(name: str, digest: Any) -> bool:
        attribute = name.rpartition(".")[2]
        if attribute in assigned:
            return True
        if type(digest) is float:
            return attribute not in later and len(repr(digest)) > _NUM_DIGITS
        is_drawn = attribute not in later and issubclass(type(value(name)), Tensor | np.ndarray)
        return type(digest) is str and (attribute in named or is_drawn)

    return {name: digest for name, digest in now.items() if is_compared(name, digest)}


def _assigned_later(packages: frozenset[str], kinds: set[type]) -> set[str]:
    """Return the names of attributes that are assigned after the objects are built, for example in a validation."""
    functions = (function for kind in kinds for function in code.own_functions(kind, packages))
    return {
        name for function in functions if function.__name__ not in _BUILD for name in code.assigned(function.__code__)
    }
