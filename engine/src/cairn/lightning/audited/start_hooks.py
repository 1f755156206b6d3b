"""Attributes that the hooks before the first epoch set, such as a copy of the first weights.

A resume runs these hooks with the restored weights and epoch, so that they may set other values. Training does not
change these attributes: a save holds what the hooks have set at the start of the run.
"""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from cairn.lightning.reading import code
from cairn.lightning.reading.attributes import Attributes

_HOOKS = ("on_fit_start", "on_train_start")


def set_at_start(trainer: Trainer, now: Attributes) -> Attributes:
    """Return the attributes that these hooks assign, and the containers, arrays and tensors that they name.

    Args:
        trainer: The trainer.
        now: All attributes.
    """
    owners = [item for item in trainer.callbacks if not isinstance(item, Checkpoint)]
    kinds = {type(item) for item in (trainer.lightning_module, *owners)}
    assigned = frozenset[str]().union(*(code.assigned_by(kind, *_HOOKS) for kind in kinds))
    named = frozenset[str]().union(*(code.read_by(kind, hook) for kind in kinds for hook in _HOOKS))
    found = {name: name.rpartition(".")[2] for name in now}
    return {
        name: now[name]
        for name, attribute in found.items()
        if attribute in assigned or (attribute in named and isinstance(now[name], str))
    }
