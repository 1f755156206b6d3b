"""What the code of a batch sees of the processes: as many as there are virtual ranks, one of which it is.

    trainer.world_size                    number of virtual ranks
    trainer.global_rank, self.global_rank       the one that is played
    trainer.is_global_zero                whether that is 0
    trainer.accumulate_grad_batches       batches of all processes in a global batch
    trainer.num_training_batches          batches of all processes in an epoch: `batch_idx` counts them, too

So a loss that is multiplied by `trainer.world_size`, or a picture that only rank 0 draws, does not depend on the number
of processes. Lightning, torch and this package see what there is.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from lightning.pytorch import Trainer

from cairn.lightning.bits.tree import Layout

FRAMEWORKS = {"lightning", "lightning_fabric", "pytorch_lightning", "torch", "torchmetrics", "cairn"}
"""Packages whose code knows of processes."""
_OF_MODULE = ("lightning.pytorch.core.module", "global_rank")
"""Property of a LightningModule that asks its trainer."""
_SEEN = "_cairn_seen"
"""Attribute of the trainer: what is seen, while a batch is worked on."""
_NAMES = ("world_size", "global_rank", "is_global_zero", "accumulate_grad_batches", "num_training_batches")


def of_rank(rank: int, num_virtual: int) -> dict[str, Any]:
    """Return what the code of a batch sees, whichever loop works on it.

    Args:
        rank: Its virtual rank.
        num_virtual: Number of virtual ranks.
    """
    return {"world_size": num_virtual, "global_rank": rank, "is_global_zero": rank == 0}


def of_batch(trainer: Trainer, rank: int, layout: Layout) -> dict[str, Any]:
    """Return what the code of a batch of the training sees.

    Args:
        trainer: The trainer.
        rank: The virtual rank of the batch.
        layout: Which virtual ranks each process plays.
    """
    number, of_process = layout.num_virtual, trainer.num_training_batches
    in_epoch = of_process if math.isinf(of_process) else of_process // layout.per_window * number
    return of_rank(rank, number) | {"accumulate_grad_batches": number, "num_training_batches": in_epoch}


@contextmanager
def seen(trainer: Trainer, values: Mapping[str, Any]) -> Iterator[None]:
    """Context in which code of the user sees other values of a trainer.

    Args:
        trainer: The trainer.
        values: Values of attributes, by name.
    """
    kind: Any = type(trainer)
    vars(trainer)[_SEEN] = values
    trainer.__class__ = _showing(kind)
    try:
        yield
    finally:
        trainer.__class__ = kind
        del vars(trainer)[_SEEN]


def is_of_user(depth: int) -> bool:
    """Whether code of the user runs in a frame, and not that of a framework.

    Args:
        depth: Number of the frame: 0 is the one that calls this.
    """
    frame: Any = sys._getframe(depth + 1)
    while frame.f_back is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) == _OF_MODULE:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).partition(".")[0] not in FRAMEWORKS


@cache
def _showing(kind: type) -> type:
    return type(kind.__name__, (kind,), {"__module__": kind.__module__} | {name: _shown(name) for name in _NAMES})


def _shown(name: str) -> property:
    def get(trainer: Any) -> Any:
        values = vars(trainer)[_SEEN]
        if name in values and is_of_user(1):
            return values[name]
        there = getattr(type(trainer).__mro__[1], name, None)
        return there.__get__(trainer) if isinstance(there, property) else vars(trainer)[name]

    def put(trainer: Any, value: Any) -> None:
        there = getattr(type(trainer).__mro__[1], name, None)
        if isinstance(there, property):
            there.__set__(trainer, value)
        else:
            vars(trainer)[name] = value

    return property(get, put)
