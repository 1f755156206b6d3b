"""Counters and flags of the loops, as they are saved and restored."""

from __future__ import annotations

import copy
import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _BaseProgress

from cairn.data.loader import DataLoader
from cairn.lightning.loops import parts
from cairn.writing.encode import Constant


def counters(trainer: Trainer) -> dict[str, Any]:
    """Return counters that Lightning does not save: validation batches so far, and epochs of the last reloads."""
    fit_loop: Any = trainer.fit_loop
    val_loop = fit_loop.epoch_loop.val_loop
    consumed = (
        []
        if fit_loop.epoch_loop._num_ready_batches_reached()
        else getattr(parts.train_iterator(trainer), "_consumed", [])
    )
    grown = any(loader.has_grown for loader in parts.train_loaders(trainer) if isinstance(loader, DataLoader))
    sizes = (fit_loop.max_batches, trainer.val_check_batch)
    return {
        "consumed": list(consumed),  # which cycled loaders have ended before, in this epoch
        "sizes": [_in_windows(size, trainer) for size in sizes] if grown else [],
        "val_ready": val_loop._combined_loader is not None,
        "val_batches": dict(val_loop._seen_batches_per_dataloader),
        "val_reload": val_loop._last_val_dl_reload_epoch,
        "train_reload": fit_loop._last_train_dl_reload_epoch,
        "request": dict(fit_loop.request) if fit_loop.request is not None else None,
    }


def _in_windows(num_batches: float | None, trainer: Trainer) -> float | None:
    """Return a number of batches of this process as one of global batches, if there are any."""
    is_finite = num_batches is not None and math.isfinite(num_batches)
    return num_batches // parts.per_window(trainer) if is_finite else num_batches  # type: ignore[operator]


def set_counters(trainer: Trainer, counts: dict[str, Any]) -> None:
    """Restore what `counters` returned."""
    fit_loop, val_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop
    if (consumed := counts.get("consumed")) and hasattr(iterator := parts.train_iterator(trainer), "_consumed"):
        iterator._consumed = list(consumed)
    if sizes := counts.get("sizes"):  # Lightning has computed them from the size that the dataset has now
        (num_batches, every), per_window = sizes, parts.per_window(trainer)
        fit_loop.max_batches, trainer.val_check_batch = num_batches * per_window, every and every * per_window
    if counts["val_ready"]:
        # The next validation would create the loaders, which sets the counts to zero: create them now.
        trainer.validating = True
        val_loop.setup_data()
        trainer.training = True
    else:
        val_loop._combined_loader = None  # the next validation creates the loaders, as it would have without a resume
    val_loop._seen_batches_per_dataloader.update(counts["val_batches"])
    val_loop._last_val_dl_reload_epoch = counts["val_reload"]
    fit_loop._last_train_dl_reload_epoch = counts["train_reload"]


def sync_flags(trainer: Trainer) -> dict[str, bool]:
    """Return whether DDP will broadcast the buffers of rank 0 before the next forward pass.

    It does not right after a validation.
    """
    model: Any = trainer.strategy.model
    return {"forward": model.require_forward_param_sync} if hasattr(model, "require_forward_param_sync") else {}


def set_sync_flags(trainer: Trainer, flags: dict[str, bool]) -> None:
    """Restore what `sync_flags` returned."""
    model: Any = trainer.strategy.model
    if flags and hasattr(model, "require_forward_param_sync"):
        model.require_forward_param_sync = flags["forward"]


class LoopStates:
    """The states of all loops during one fit, called in place of Lightning's own method.

    The loops of `validate`, `test` and `predict` do not run in a fit: they are read once, and encoded once.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._idle: dict[str, Any] = {}
        self._encoded: dict[str, Constant] = {}

    def __call__(self) -> dict[str, Any]:
        if not self._idle:
            names = ("validate_loop", "test_loop", "predict_loop")
            self._idle = {name: _state_of(getattr(self.trainer, name), {}, "") for name in names}
            self._encoded = {name: Constant(copy.deepcopy(state)) for name, state in self._idle.items()}
        return {"fit_loop": _state_of(self.trainer.fit_loop, {}, ""), **self._idle}

    def with_constants(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return these states as they are encoded fastest; hooks may have changed them, which is kept."""
        same = {name: known for name, known in self._encoded.items() if states.get(name) == known.value}
        if len(same) < len(self._encoded):
            self._idle = {}  # a hook has changed what each save would get
        return {**states, **same}


def _state_of(loop: Any, found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the state of a loop and those in it, as Lightning's own method does, which copies each number deeply."""
    if type(loop).state_dict is not _Loop.state_dict:
        return dict(loop.state_dict(found, prefix))
    found[f"{prefix}state_dict"] = loop.on_save_checkpoint()
    for name, value in vars(loop).items():
        if isinstance(value, _BaseProgress):
            found[prefix + name] = _counts(value)
        elif isinstance(value, _Loop):
            _state_of(value, found, f"{prefix}{name}.")
    return found


def _counts(progress: Any) -> dict[str, Any]:
    if type(progress).state_dict is not _BaseProgress.state_dict:
        return dict(progress.state_dict())
    found = dict(vars(progress))
    for name, value in found.items():
        if type(value) not in (int, bool):  # nearly all of them are, and `deepcopy` takes 1 us for each
            found[name] = _counts(value) if isinstance(value, _BaseProgress) else copy.deepcopy(value)
    return found
