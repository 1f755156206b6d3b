"""The weights that a new run takes from a file: `init_weights`, `init_weights_strict` and `init_weights_prefix`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.nn.parameter import is_lazy

from cairn.errors import ModelError
from cairn.hydra.run.start import Start
from cairn.runs import summary
from cairn.wandb import start as wandb_start
from cairn.writing import load
from cairn.writing.mismatch import COMPILED, Mismatch, mismatch

log = logging.getLogger(__name__)

_LATE_HOOKS = ("setup", "configure_model")
"""Hooks in which a model may build layers, after `train.py` has built the model."""


class InitWeights(Callback):
    """Gives the model of a new run its weights: when it is built, or once its `setup` has built the rest of it.

    Args:
        start: The start of the run; without `init_weights`, and in a resumed run, this does nothing.
    """

    def __init__(self, start: Start) -> None:
        settings = start.settings
        self._named = (getattr(settings, "init_weights", None) or "") if start.plan.path is None else ""
        self._directory = start.directory.path
        self._strict, self._prefix = True, ""
        if self._named:
            self._strict, self._prefix = settings.init_weights_strict, settings.init_weights_prefix or ""
        self._weights: load.Weights | None = None
        """Weights to load once all layers exist."""

    def give(self, model: LightningModule) -> None:
        """Load the weights into a model that was just built, or remember them until its layers exist.

        Raises:
            CairnError: The file cannot be used, or does not fit.
        """
        if not self._named:
            return
        weights = self._read()
        own = model.state_dict()
        is_complete = any(values.keys() == own.keys() for values in _forms(weights, model))
        if not is_complete and any(is_overridden(hook, model) for hook in _LATE_HOOKS):
            self._weights = weights
        else:
            self._load(weights, model)

    def contents(self) -> Mapping[str, Any]:
        """Return what else the file holds; empty if it is not a checkpoint."""
        return self._read().contents if self._named else {}

    # Lightning calls these after `setup` and `configure_model`, before the first batch.

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights that `give` postponed. Also used for validation, test and prediction."""
        if self._weights is not None:
            weights, self._weights = self._weights, None
            self._load(weights, pl_module)

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def _read(self) -> load.Weights:
        return load.load_weights(wandb_start.local_file(self._named, self._directory))

    def _load(self, weights: load.Weights, model: LightningModule) -> None:
        file = summary.relative(weights.path)
        if self._strict and not self._prefix:
            _load_all(weights, model)
            log.info("Loaded weights from %s", file)
            return
        part = _best_part(weights, model, self._prefix)
        if self._strict and (part.mismatch.missing or part.mismatch.unexpected or part.mismatch.shapes):
            raise _refusal(weights.path, model, part.mismatch)
        if not part.fitting:
            raise _refusal(weights.path, model, part.mismatch, none=True)
        model.load_state_dict(part.fitting, strict=False)
        left = f"; not used: {part.mismatch}" if str(part.mismatch) else ""
        taken, num_file, num_model = len(part.fitting), len(weights.values), len(model.state_dict())
        log.info(
            "Loaded %d of %d weights from %s%s; the model has %d%s", taken, num_file, file, part.how, num_model, left
        )


@dataclass(frozen=True)
class _Part:
    """The part of a file's weights that a model takes."""

    fitting: Mapping[str, Any]
    mismatch: Mismatch
    how: str


def _load_all(weights: load.Weights, model: LightningModule) -> None:
    """Load all weights, as Lightning would: with the hooks of the model, and with its `strict_loading`."""
    first: Mismatch | None = None
    cause: RuntimeError | None = None
    for values in _forms(weights, model):
        try:
            model.load_state_dict(values, strict=model.strict_loading)
            return
        except RuntimeError as error:
            found = mismatch(error)
            if found is None:
                raise
            first, cause = first or found, cause or error
    assert first is not None
    raise _refusal(weights.path, model, first) from cause


def _forms(weights: load.Weights, model: LightningModule) -> Iterator[Mapping[str, Any]]:
    """Yield the weights in each form that Lightning or a compiled model knows them in."""
    yield weights.values
    yield _like_compiled(weights.values, model)
    if (renamed := _as_model_renames(weights, model)) is not None:
        yield renamed


def _as_model_renames(weights: load.Weights, model: LightningModule) -> Mapping[str, Any] | None:
    """Return the weights as `on_load_checkpoint` changes them: it may rename weights of an earlier version.

    A copy of the model gets the call: the hook may also take state of the old run, which a new run must not have.
    """
    if not weights.contents or not is_overridden("on_load_checkpoint", model):
        return None
    contents = {**weights.contents, "state_dict": dict(weights.values)}
    try:
        trainer = model._trainer
        copy.deepcopy(model, {id(trainer): trainer}).on_load_checkpoint(contents)
        values = contents["state_dict"]
    except Exception as error:  # the file lacks what the hook needs, or the model cannot be copied
        log.debug("on_load_checkpoint cannot change the names", exc_info=error)
        return None
    return values if isinstance(values, Mapping) else None


def _like_compiled(values: Mapping[str, Any], model: LightningModule) -> dict[str, Any]:
    """Return the weights with the prefix of torch.compile where the model has it, and without it elsewhere."""
    own = {name.replace(COMPILED, ""): name for name in model.state_dict()}
    return {own.get(name.replace(COMPILED, ""), name): value for name, value in values.items()}


def _best_part(weights: load.Weights, model: LightningModule, prefix: str) -> _Part:
    """Return the part that fits, under the names that fit best.

    With a prefix, this is what begins with it in the file: under these names, or without the prefix. If nothing in the
    file begins with it, the prefix is put before all names. `OLD:NEW` replaces one prefix by another in names that the
    model does not have.
    """
    own, parts = model.state_dict(), []
    for values in _forms(weights, model):
        old, colon, new = prefix.partition(":")
        if not prefix:
            parts.append(_part(values, own, ""))
        elif colon:
            renamed = {_renamed(name, old, new, own): value for name, value in values.items()}
            parts.append(_part(renamed, own, f" (names changed by {prefix})"))
        elif selected := {name: value for name, value in values.items() if name.startswith(prefix)}:
            below = {name: value for name, value in own.items() if name.startswith(prefix)}
            parts.append(_part(selected, below, f" (those with the prefix {prefix})"))
            bare = {name.removeprefix(prefix): value for name, value in selected.items()}
            parts.append(_part(bare, own, f" (those with the prefix {prefix}, without it)"))
        else:
            longer = {prefix + name: value for name, value in values.items()}
            below = {name: value for name, value in own.items() if name.startswith(prefix)}
            parts.append(_part(longer, below, f" (with the prefix {prefix} put before their names)"))
        if any(not str(part.mismatch) for part in parts):
            break  # the form of `on_load_checkpoint` is only for weights that do not fit
    return max(parts, key=lambda part: len(part.fitting))


def _renamed(name: str, old: str, new: str, own: Mapping[str, Any]) -> str:
    return new + name[len(old) :] if name not in own and name.startswith(old) else name


def _part(values: Mapping[str, Any], own: Mapping[str, Any], how: str) -> _Part:
    shapes = {
        name: (_shape(value), _shape(own[name]))
        for name, value in values.items()
        if name in own and not is_lazy(own[name]) and _shape(value) != _shape(own[name])
    }
    fitting = {name: value for name, value in values.items() if name in own and name not in shapes}
    missing = tuple(name for name in own if name not in values)
    unexpected = tuple(name for name in values if name not in own)
    return _Part(fitting, Mismatch(missing, unexpected, shapes), how)


def _shape(value: Any) -> str:
    return "" if is_lazy(value) else str(tuple(getattr(value, "shape", ())))


def _refusal(path: Path, model: LightningModule, found: Mismatch, none: bool = False) -> ModelError:
    renaming = found.renaming()
    if renaming is not None:
        cure = f"Set init_weights_prefix={renaming.old}:{renaming.new} to change these names"
    else:
        cure = "Choose the model that it was trained with"
        cure += "" if none else ", or take what fits with init_weights_strict=false"
    kind = f"no weight that fits {type(model).__name__}" if none else "the weights of another model"
    return ModelError(f"{path} holds {kind}: {found}. {cure}.")
