"""Sums over an epoch that no state_dict contains: `self.log(..., on_epoch=True)` and the states of torchmetrics.

    self.log("loss", x, on_epoch=True) --> one _ResultMetric per name: sum, number of samples  --> logged()
                                      `--> the latest values, for callbacks and loggers        --> logged()
    self.accuracy.update(x, y)         --> states of the torchmetrics object                   --> metrics()

Without them, the means of a resumed epoch would cover only the batches after the resume. Lightning's objects hold
functions and process groups, which a file for `weights_only=True` cannot contain. So their fields are saved as plain
values, and a resume builds the objects again. boundary.py lists the modules that use private names of Lightning.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.errors import UnsafeStateError
from cairn.lightning.reading import modules

_META = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx")
_META_OPTIONAL = ("dataloader_idx", "metric_attribute")
_COMPARED = (*_META, *_META_OPTIONAL, "reduce_fx")
_VALUES = ("value", "cumulated_batch_size")
_PLAIN = (bool, int, float, torch.Tensor)
_CACHES = ("_forward_cache", "_computed", "_update_count")


def logged(trainer: Trainer) -> dict[str, Any]:
    """Return what `self.log` has collected in this epoch on this rank, as plain values.

    Raises:
        UnsafeStateError: A value is logged with `sync_dist_group`.
    """
    connector, results = trainer._logger_connector, trainer.fit_loop.epoch_loop._results
    return {
        "entries": entries(results),
        "callback": dict(connector._callback_metrics),
        "logged": dict(connector._logged_metrics),
        "progress_bar": dict(connector._progress_bar_metrics),
        "first_loop_iter": connector._first_loop_iter,
        "current_fx": connector._current_fx,
    }


def set_logged(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restore what `logged` returned, so that the means of the epoch cover all of its batches."""
    connector, results = trainer._logger_connector, trainer.fit_loop.epoch_loop._results
    results.clear()
    for key, entry in state["entries"].items():
        add_entry(results, key, entry, trainer)
    connector._callback_metrics.update(_moved(state["callback"], trainer))
    connector._logged_metrics.update(_moved(state["logged"], trainer))
    connector._progress_bar_metrics.update(state["progress_bar"])
    connector._first_loop_iter = state["first_loop_iter"]
    connector._current_fx = state["current_fx"]


def names_of_validation(trainer: Trainer) -> list[str]:
    """Return the names under which the validation that is about to end has logged something, for callbacks."""
    results = trainer.fit_loop.epoch_loop.val_loop._results
    logged = (metric for metric in results.values() if not metric.has_reset and metric.meta.on_epoch)
    return sorted({name for metric in logged for name in results._forked_name(metric, on_step=False)})


def names_of_steps(trainer: Trainer) -> list[str]:
    """Return the names that the validation that is about to end has logged for single batches only."""
    results = trainer.fit_loop.epoch_loop.val_loop._results
    return sorted({metric.meta.name for metric in results.values() if not metric.meta.on_epoch})


def metrics(module: LightningModule) -> dict[str, Any]:
    """Return the state of each torchmetrics object in the module."""
    return {
        name: {
            "states": dict(metric.metric_state),
            # A metric with a mean as its reduction needs the number of updates in order to merge states.
            "caches": {cache: getattr(metric, cache) for cache in _CACHES},
            # Some metrics (RunningMean, MinMaxMetric) keep a part of their state in plain attributes.
            "plain": {key: value for key, value in vars(metric).items() if type(value) in _PLAIN},
        }
        for name, metric in modules.named(module)
        if modules.is_metric(metric)
    }


def set_metrics(module: LightningModule, state: Mapping[str, Any]) -> None:
    """Restore what `metrics` returned, of those that exist: a hook may create one in each epoch."""
    found = dict(modules.named(module))
    if missing := [name for name in state if name not in found]:
        rank_zero_warn(
            f"This resume may not be exact: the checkpoint holds the state of {', '.join(missing)}, and "
            f"{type(module).__name__} does not have this yet. Create metrics in __init__ or setup()."
        )
    for name, fields in state.items():
        if (metric := found.get(name)) is None:
            continue
        for key, value in {**fields["plain"], **fields["states"], **fields["caches"]}.items():
            setattr(metric, key, _to(value, module.device))


def entries(results: _ResultCollection) -> dict[str, Any]:
    """Return what a loop has collected, as plain values by name."""
    return {key: _entry(metric) for key, metric in results.items()}


def _entry(metric: _ResultMetric) -> dict[str, Any]:
    meta, sync = metric.meta, metric.meta.sync
    entry: dict[str, Any] = {name: getattr(meta, name) for name in (*_META, *_META_OPTIONAL)}
    if sync.group is not None:
        raise UnsafeStateError(
            f"{meta.name!r} is logged with sync_dist_group, which cannot be saved in a checkpoint. Log it without."
        )
    entry["reduce"] = [meta.reduce_fx.__module__ == "builtins", meta.reduce_fx.__name__]
    entry["sync"] = {
        "should": sync.should,
        "op": sync.op,
        "rank_zero_only": sync.rank_zero_only,
        "custom": sync.fn is not None,
    }
    entry["is_tensor"], entry["has_reset"] = metric.is_tensor, metric.has_reset
    for name in (*_CACHES, *(_VALUES if metric.is_tensor else ())):
        if hasattr(metric, name):
            entry[name] = getattr(metric, name)
    return entry


def add_entry(results: _ResultCollection, key: str, entry: Mapping[str, Any], trainer: Trainer) -> None:
    """Add what one of `entries` says to what a loop has collected."""
    module, sync = trainer.lightning_module, entry["sync"]
    # Lightning accepts Python's max as well as torch's, and treats them differently: the name alone is not enough.
    is_builtin, name = entry["reduce"]
    fields = {field: entry[field] for field in (*_META, *_META_OPTIONAL)}
    # In a single process, Lightning does not know whether a value is to be synchronized: the code of the user says so.
    is_distributed = trainer._accelerator_connector.is_distributed
    kind = _Metadata if sync["should"] or not is_distributed else _Adopting
    meta = kind(**fields, reduce_fx=getattr(builtins if is_builtin else torch, name))
    fn, should = trainer.strategy.reduce if sync["custom"] else None, sync["should"] and is_distributed
    meta.sync = _Sync(fn=fn, _should=should, _op=sync["op"], rank_zero_only=sync["rank_zero_only"])
    metric = _ResultMetric(meta, entry["is_tensor"])
    for name in (*_CACHES, *(_VALUES if entry["is_tensor"] else ())):
        if name in entry:
            setattr(metric, name, _to(entry[name], module.device))
    # A torchmetrics object that was logged belongs to the module; its state comes back with `set_metrics`.
    if not entry["is_tensor"]:
        metric.value = module.get_submodule(entry["metric_attribute"])
    metric.has_reset = entry["has_reset"]
    results[key] = metric


class _Adopting(_Metadata):
    """How a value is logged, except that whether it is synchronized is known only when it is logged again."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Metadata) or any(getattr(self, name) != getattr(other, name) for name in _COMPARED):
            return False
        self.sync = other.sync
        return True

    def __ne__(self, other: object) -> bool:  # asked first, because it is that of a subclass
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def _moved(values: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
    return {key: _to(value, trainer.lightning_module.device) for key, value in values.items()}


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, (list, tuple)):
        return type(value)(_to(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return value
