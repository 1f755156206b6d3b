"""Attributes that training does not change, and that may be different in the next process.

    set by on_fit_start, on_train_start      a resume runs them with the restored weights and epoch
    tensors, arrays, numbers of many digits  they may be drawn from a generator that nothing seeds, or be other data

A save holds what they are at the start of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from cairn.lightning.reading import code
from cairn.lightning.reading.attributes import Attributes

_HOOKS = ("on_fit_start", "on_train_start")
_NUM_DIGITS = 12
"""Length of a number as text, up to which it may stand in the code or in a configuration."""


def at_start(trainer: Trainer, now: Attributes, value: Callable[[str], Any]) -> Attributes:
    """Return those of the attributes that a resume compares although training does not change them.

    Args:
        trainer: The trainer.
        now: All attributes.
        value: Returns the attribute of a name itself.
    """
    owners = [item for item in trainer.callbacks if not isinstance(item, Checkpoint)]
    kinds = {type(item) for item in (trainer.lightning_module, *owners)}
    assigned = frozenset[str]().union(*(code.assigned_by(kind, *_HOOKS) for kind in kinds))
    named = frozenset[str]().union(*(code.read_by(kind, hook, with_texts=True) for kind in kinds for hook in _HOOKS))

    def is_compared(name: str, digest: Any) -> bool:
        if (attribute := name.rpartition(".")[2]) in assigned or type(digest) is not str:
            return attribute in assigned or (type(digest) is float and len(repr(digest)) > _NUM_DIGITS)
        return attribute in named or isinstance(value(name), Tensor | np.ndarray)

    return {name: digest for name, digest in now.items() if is_compared(name, digest)}
