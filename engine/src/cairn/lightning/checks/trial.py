"""A trial of the first save when training starts: what that save would refuse is refused before the first batch.

Nothing is written, and no tensor is copied. The state that optimizers get in their first step comes from twins without
data. Hooks of the user are called as in a save. If one raises, it may need what training makes later: then the first
save decides.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cairn.data.iterable import StatefulBatches
from cairn.data.loader import DataLoader
from cairn.data.seeded_order import SeededOrder
from cairn.errors import ConfigError, UnsafeStateError
from cairn.lightning.agreement import Agreement, first_error, together
from cairn.lightning.collect import rank_state
from cairn.lightning.fsdp.strategy import FSDP2Strategy, divided
from cairn.lightning.loops import boundary
from cairn.lightning.saved import placed, unsaved
from cairn.lightning.saved.hyperparameters import plain_hyperparameters
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.sharded import rows
from cairn.writing.size import state_after_a_step

log = logging.getLogger(__name__)

_NUM_RESTORED = 1000
"""Items of a list or dict up to which a change by a hook is undone."""
_PLAIN = (bool, int, float, str, type(None))
_STATES = "optimizer_states"
_HOOKS = "state_dict() or on_save_checkpoint()"


def check(trainer: Trainer, agreement: Agreement, config: Mapping[str, Any]) -> None:
    """Check that the state of a training can be saved. Every rank must call this, before the first batch.

    Args:
        trainer: The trainer.
        agreement: Between the ranks.
        config: Configuration of the run, which each checkpoint holds.

    Raises:
        ConfigError: A value cannot be saved; the message names the path to it, where it comes from, and the cure.
    """
    before = unsaved.rng_state()
    with together(agreement, "The state", "saved"):  # an error that is not a refusal
        try:
            error = _tried_save(trainer, config)
        finally:
            unsaved.set_rng_state(before)
    if any(agreement.largest(bool(error))):  # all ranks stop if one has to
        raise ConfigError(first_error(agreement, error))


def _tried_save(trainer: Trainer, config: Mapping[str, Any]) -> str:
    """Return why this rank cannot save; empty if it can."""
    with _unchanged([*trainer.callbacks, trainer.lightning_module, trainer.datamodule]):
        try:
            contents = _contents(trainer)
        except ConfigError as error:
            return str(error)
        ours = {unsaved.KEY: {"config": dict(config), "ranks": [rank_state(trainer)]}}
    return _refusal(trainer, contents | ours)


def _refusal(trainer: Trainer, contents: dict[str, Any]) -> str:
    try:
        if (strategy := divided(trainer)) is not None:
            rows.deal({key: value for key, value in contents.items() if key != _STATES}, strategy.rows)
            kinds = (dict, OrderedDict)
            contents = {key: _with_memory(value) if type(value) in kinds else value for key, value in contents.items()}
        FormEncoder().encode(plain_hyperparameters(contents))
    except UnsafeStateError as error:
        return f"{error} It comes from {_source(trainer, str(error))}."
    except RecursionError:
        return "The state of this training contains itself, so it cannot be saved: return a copy without the cycle."
    return ""


def _contents(trainer: Trainer) -> dict[str, Any]:
    """Return what Lightning would save."""
    module, data, plugin = trainer.lightning_module, trainer.datamodule, trainer.precision_plugin
    weights = _tried(_weights, trainer) or {}
    schedulers = [_tried(config.scheduler.state_dict) for config in trainer.lr_scheduler_configs]
    contents: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": {name: value for name, value in weights.items() if not is_lazy(value)},
        "loops": _loops(trainer),
        "callbacks": {item.state_key: found for item in trainer.callbacks if (found := _tried(item.state_dict))},
        _STATES: [_optimizer_state(item) for item in trainer.optimizers],
        "lr_schedulers": schedulers,
        type(plugin).__qualname__: _tried(plugin.state_dict),
    }
    for owner in (module, data):
        if owner is not None and owner.hparams:
            contents[owner.CHECKPOINT_HYPER_PARAMS_KEY] = owner.hparams
    if data is not None:
        contents[type(data).__qualname__] = _tried(data.state_dict)
    for number, loader in enumerate(boundary.train_loaders(trainer)):
        batches, order = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
        if isinstance(batches, StatefulBatches):
            contents[f"loader {number}"] = _tried(batches.wrapped.state_dict)
        elif isinstance(order, SeededOrder) and order.is_stateful:
            contents[f"loader {number}"] = _tried(order.sampler.state_dict)
    with _as_in_a_save(module):
        for callback in trainer.callbacks:
            _tried(callback.on_save_checkpoint, trainer, module, contents)
        _tried(module.on_save_checkpoint, contents)
    return contents


def _weights(trainer: Trainer) -> Any:
    if (strategy := divided(trainer)) is not None:  # hooks get no values, as in a save
        with strategy.in_shards():
            return strategy.lightning_module_state_dict()
    if isinstance(trainer.strategy, FSDP2Strategy):
        return _with_memory(placed.weights(trainer.lightning_module, placed.without_data))
    return trainer.strategy.lightning_module_state_dict()


@contextmanager
def _as_in_a_save(module: LightningModule) -> Iterator[None]:
    """Let Lightning refuse a call of `self.log`, which only a save would refuse later."""
    name = module._current_fx_name
    module._current_fx_name = "on_save_checkpoint"
    try:
        yield
    finally:
        module._current_fx_name = name


def _loops(trainer: Trainer) -> dict[str, Any]:
    """Return the counters of the loops and the positions of loaders.

    Other loaders than ours may create an iterator for it, and start their workers: then this is left out.
    """
    loaders = boundary.train_loaders(trainer)
    if any(hasattr(loader, "state_dict") and not isinstance(loader, DataLoader) for loader in loaders):
        return {}
    return {"fit_loop": _tried(trainer.fit_loop.state_dict)}


def _tried(hook: Callable[..., Any], *arguments: Any) -> Any:
    """Call a hook; return None if it raises.

    Raises:
        ConfigError: It reads values that no process has.
    """
    try:
        return hook(*arguments)
    except Exception as error:  # code of the user
        if placed.lacks_values(error):
            raise ConfigError(placed.NO_VALUES) from error
        name = getattr(hook, "__qualname__", repr(hook))
        log.debug("%s cannot be called before the first batch (%r): the first save decides.", name, error)
        return None


@contextmanager
def _unchanged(owners: list[Any]) -> Iterator[None]:
    """Undo what hooks change in plain attributes, such as a count of saves."""
    before = [(vars(owner), set(vars(owner)), _plain_attributes(owner)) for owner in owners if owner is not None]
    try:
        yield
    finally:
        for attributes, names, values in before:
            for name in [name for name in attributes if name not in names and type(attributes[name]) in _PLAIN]:
                del attributes[name]  # a default of the class had its place
            for name, (value, items) in values.items():
                attributes[name] = value
                if isinstance(value, list) and value != items:
                    value[:] = items
                elif isinstance(value, dict | set) and value != items:
                    value.clear()
                    value.update(items)


def _plain_attributes(owner: Any) -> dict[str, tuple[Any, Any]]:
    """Return plain attributes by name: the value, and a copy of it if it is a container of plain values."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, value in vars(owner).items():
        if type(value) in _PLAIN:
            found[name] = (value, None)
        elif type(value) in (list, set, dict) and len(value) <= _NUM_RESTORED:
            items = value.values() if isinstance(value, dict) else value
            if all(type(item) in _PLAIN for item in items):
                found[name] = (value, value.copy())
    return found


def _optimizer_state(optimizer: Optimizer) -> Any:
    """Return the state that the optimizer will have; only what it has, if a step cannot be tried."""
    state = placed.converted(state_after_a_step(optimizer), placed.without_data)
    placed.check_optimizer(optimizer, state)
    return _with_memory(state) or _tried(optimizer.state_dict)


def _with_memory(value: Any) -> Any:
    """Give tensors without data a single number as their memory, so that they can be encoded."""
    if isinstance(value, Tensor):
        return torch.empty((), dtype=value.dtype).expand(value.shape) if value.is_meta else value
    if isinstance(value, dict):
        return {key: _with_memory(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_with_memory(item) for item in value)
    return value


def _source(trainer: Trainer, message: str) -> str:
    """Return where a refused value comes from, and so what to change."""
    found = re.match(r"checkpoint\['(.*?)'\](?:\[(\d+|'(?:.*?)')\])?", message)
    key, inner = (found[1], (found[2] or "").strip("'")) if found else ("", "")
    if key == "callbacks" and not inner:
        odd = [type(item).__name__ for item in trainer.callbacks if not isinstance(item.state_key, str)]
        return f"the state_key of the callback {odd[0] if odd else ''}: return a string there"
    if key == "callbacks":
        owner = next((type(item).__name__ for item in trainer.callbacks if item.state_key == inner), inner)
        return f"state_dict() of the callback {owner}: return plain values there"
    if key == "lr_schedulers" and inner.isdigit():
        scheduler = type(trainer.lr_scheduler_configs[int(inner)].scheduler).__name__
        return f"the scheduler {scheduler}: give it a state_dict() and load_state_dict() with plain values"
    if key == "optimizer_states" and inner.isdigit():
        optimizer = type(trainer.optimizers[int(inner)]).__name__
        return f"the optimizer {optimizer}: keep plain values and tensors in its state and its parameter groups"
    if key == "state_dict":
        return "get_extra_state() or state_dict() of the model: return plain values there"
    if key == unsaved.KEY:
        return "a metric, a callback, or the metadata of the Checkpointer: keep plain values there"
    if trainer.datamodule is not None and key == type(trainer.datamodule).__qualname__:
        return f"state_dict() of the data module {key}: return plain values there"
    if key == "loops" or key.startswith("loader "):
        return "state_dict() of the training data set or its sampler: return plain values there"
    return f"{_HOOKS} of the model or of a callback: save plain values there"
