"""Lightning's finders of a learning rate and of a batch size, which train inside of a fit.

A finder takes the callbacks out of the trainer, runs the loops of the fit, and puts back a temporary checkpoint:

    fit -----> finder: the same loops, without boundaries -----> fit, as if there had been no other

A resume does not search again: it takes what was found from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner.lr_finder import _determine_lr_attr_name, _LRFinder
from lightning.pytorch.utilities.parsing import lightning_getattr, lightning_setattr
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from cairn.lightning.loops import boundary
from cairn.lightning.loops.boundary import BoundaryFitLoop

Finder = LearningRateFinder | BatchSizeFinder


class Finders:
    """The finders among the callbacks of a trainer.

    Args:
        trainer: The trainer.
        is_loading: Whether a checkpoint is loaded whose state is not restored yet.
        finish_copy: Finishes an overlapping copy of the weights, which a finder changes.
    """

    def __init__(self, trainer: Trainer, is_loading: Callable[[], bool], finish_copy: Callable[[], Any]) -> None:
        self.trainer, self._is_loading, self._finish_copy = trainer, is_loading, finish_copy
        self._found: dict[str, Any] = {}

    def watch(self) -> None:
        """Learn of each search, which a callback may begin in any hook."""
        for finder in self._all():
            watched = _Watched(self, finder)
            setattr(finder, watched.name, watched)

    def state(self) -> dict[str, Any]:
        """Return what was found, as plain values."""
        return self._found

    def load(self, state: Mapping[str, Any]) -> None:
        """Set what was found before, in place of a search."""
        for finder in self._all():
            found = state.get(_name(finder))
            if found is None:
                continue
            self._found[_name(finder)] = found
            for attribute, value in found["attributes"].items():
                lightning_setattr(self.trainer.lightning_module, attribute, value)
            if isinstance(finder, BatchSizeFinder):
                finder.optimal_batch_size = found["result"]
            else:
                finder.optimal_lr = _result_of_a_search(found["result"])

    def search(self, finder: Finder, method: Callable[..., None], trainer: Trainer, module: LightningModule) -> None:
        """Search without boundaries, unless the result is known."""
        fit_loop = trainer.fit_loop
        if trainer is not self.trainer or not isinstance(fit_loop, BoundaryFitLoop):  # the callback has another trainer
            method(finder, trainer, module)
            return
        if self._is_loading():
            if _name(finder) in self._found:
                rank_zero_info(f"{_name(finder)} does not search again: the checkpoint holds what it has found.")
            else:
                rank_zero_warn(
                    f"{_name(finder)} does not search in a fit that begins with a checkpoint, because its search would "
                    f"begin the training again: the values of the checkpoint are used."
                )
            return
        self._finish_copy()
        with _inner_fit(trainer, fit_loop):
            method(finder, trainer, module)
        for loader in boundary.train_loaders(trainer):
            # In a hook at the start of an epoch, the loaders have their epoch already; the finder counts other epochs.
            _set_sampler_epoch(loader, fit_loop.epoch_progress.current.processed)
        self._found[_name(finder)] = _found(finder, module)

    def _all(self) -> list[Finder]:
        return [item for item in self.trainer.callbacks if isinstance(item, Finder)]


def tuned(callback: Any) -> set[str]:
    """Return the names under which a finder sets what it has found, also as hyperparameters; none for other objects."""
    if isinstance(callback, BatchSizeFinder):
        return {callback._batch_arg_name}
    if isinstance(callback, LearningRateFinder):
        return {callback._attr_name} if callback._attr_name else {"lr", "learning_rate"}
    return set()


class _Watched:
    """The method of a finder that trains, called by way of `Finders.search`. A copy of the finder has a plain one."""

    def __init__(self, finders: Finders, finder: Finder) -> None:
        self.finders, self.finder = finders, finder
        self.name = "lr_find" if isinstance(finder, LearningRateFinder) else "scale_batch_size"

    def __call__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finders.search(self.finder, getattr(type(self.finder), self.name), trainer, pl_module)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.finder, self.name)


@contextmanager
def _inner_fit(trainer: Trainer, fit_loop: BoundaryFitLoop) -> Iterator[None]:
    """The loops behave as Lightning's while a finder runs them."""
    connector = trainer._checkpoint_connector
    path, callbacks = connector._ckpt_path, trainer.callbacks
    was_dealt = fit_loop.has_global_batches
    fit_loop.inner = True
    try:
        yield
    finally:
        fit_loop.inner = False
        if not was_dealt:  # the fit deals out those of the search again, with what it needs to count them
            fit_loop.forget_global_batches()
        trainer.callbacks = callbacks  # a search that fails leaves its own, and ours would not hear of the error
        # The finder leaves its temporary checkpoint in both.
        connector._ckpt_path = path
        fit_loop._combined_loader_states_to_load = []


def _name(finder: Finder) -> str:
    return type(finder).__qualname__


def _found(finder: Finder, module: LightningModule) -> dict[str, Any]:
    if isinstance(finder, BatchSizeFinder):
        name = finder._batch_arg_name
        return {"attributes": {name: lightning_getattr(module, name)}, "result": finder.optimal_batch_size}
    result = finder.optimal_lr
    searched = result is not None and finder._update_attr
    names = [_determine_lr_attr_name(module, finder._attr_name)] if searched else []
    values = {name: lightning_getattr(module, name) for name in names}
    return {"attributes": values, "result": None if result is None else vars(result)}


def _result_of_a_search(values: Mapping[str, Any] | None) -> _LRFinder | None:
    if values is None:
        return None
    result = _LRFinder(values["mode"], values["lr_min"], values["lr_max"], values["num_training"])
    vars(result).update(values)
    return result
