"""The weights that a new run takes from a file: `init_weights`, `init_weights_strict` and `init_weights_prefix`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.nn.parameter import is_lazy

from cairn.errors import ModelError
from cairn.hydra.run import origin
from cairn.hydra.run.start import Start
from cairn.lightning.saved import as_built, placed, resized
from cairn.run import summary
from cairn.writing import load
from cairn.writing.mismatch import COMPILED, Mismatch, listed, mismatch, shape_of

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
        is_complete = any(values.keys() == own.keys() for values, _ in _forms(weights, model))
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
        return load.load_weights(origin.local_file(self._named, self._directory))

    def _load(self, weights: load.Weights, model: LightningModule) -> None:
        file = summary.relative(weights.path)
        if self._strict and not self._prefix:
            _load_all(weights, model)
            log.info("Loaded weights from %s", file)
            return
        part = _best_part(weights, model, self._prefix).adopted(model)
        if self._strict and (part.mismatch.missing or part.mismatch.unexpected or part.mismatch.shapes):
            raise _refusal(weights, model, part.mismatch)
        if not part.fitting:
            raise _refusal(weights, model, part.mismatch, none=True)
        model.load_state_dict(placed.weights_for(model, part.fitting), strict=False)
        left = _left(part.mismatch)
        taken, num_file, num_model = len(part.fitting), len(weights.values), len(model.state_dict())
        log.info(
            "Loaded %d of %d weights from %s%s; the model has %d%s", taken, num_file, file, part.how, num_model, left
        )


@dataclass(frozen=True)
class _Part:
    """The part of a file's weights that a model may take, under the names in the model."""

    values: Mapping[str, Any]
    changed: resized.Record
    """See `resized.record`."""
    below: str
    """What the names in the model begin with that count as missing."""
    how: str
    own: Mapping[str, Any]
    """The state_dict of the model."""

    def adopted(self, model: LightningModule) -> _Part:
        """Return the part after buffers of the model have taken the forms in the file."""
        resized.adopt(model, self.values, self.changed)
        return replace(self, own=model.state_dict())

    @property
    def fitting(self) -> Mapping[str, Any]:
        """What the model takes."""
        differing = self.mismatch.shapes
        return {name: value for name, value in self.values.items() if name in self.own and name not in differing}

    @cached_property
    def mismatch(self) -> Mismatch:
        """What does not fit."""
        names = [name for name in self.own if name.startswith(self.below)]
        missing = tuple(name for name in names if name not in self.values)
        unexpected = tuple(name for name in self.values if name not in self.own)
        shapes = {
            name: (shape_of(value), shape_of(self.own[name]))
            for name, value in self.values.items()
            if name in self.own and not is_lazy(self.own[name]) and shape_of(value) != shape_of(self.own[name])
        }
        return Mismatch(missing, unexpected, shapes)


def _load_all(weights: load.Weights, model: LightningModule) -> None:
    """Load all weights, as Lightning would: with the hooks of the model, and with its `strict_loading`."""
    first: Mismatch | None = None
    cause: RuntimeError | None = None
    for values, changed in _forms(weights, model):
        resized.adopt(model, values, changed)
        try:
            model.load_state_dict(placed.weights_for(model, values), strict=model.strict_loading)
            return
        except RuntimeError as error:
            found = mismatch(error)
            if found is None:
                raise
            first, cause = first or found, cause or error
    assert first is not None
    raise _refusal(weights, model, first) from cause


def _forms(weights: load.Weights, model: LightningModule) -> Iterator[tuple[Mapping[str, Any], resized.Record]]:
    """Yield the weights in each form that Lightning or a compiled model knows them in, and their resized buffers."""
    changed = resized.recorded(weights.contents)
    yield weights.values, changed
    yield _like_compiled(weights.values, model), _like_compiled(changed, model)
    if (renamed := _as_model_renames(weights, model)) is not None:
        yield renamed, changed


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
    own = {name.replace(COMPILED, ""): name for name in (*model.state_dict(), *as_built.buffers(model))}
    return {own.get(name.replace(COMPILED, ""), name): value for name, value in values.items()}


def _best_part(weights: load.Weights, model: LightningModule, prefix: str) -> _Part:
    """Return the part that fits, under the names that fit best.

    With a prefix, this is what begins with it in the file: under these names, or without the prefix. If nothing in the
    file begins with it, the prefix is put before all names. `OLD:NEW` replaces one prefix by another in names that the
    model does not have.
    """
    own, parts = model.state_dict(), []
    old, colon, new = prefix.partition(":")
    for values, changed in _forms(weights, model):
        named = partial(_named, values, changed, own)
        if not prefix:
            parts.append(named(lambda name: name))
        elif colon:
            parts.append(named(lambda name: _renamed(name, old, new, own), how=f" (names changed by {prefix})"))
        elif any(name.startswith(prefix) for name in values):
            those = f"those with the prefix {prefix}"
            parts.append(named(lambda name: name, prefix, below=prefix, how=f" ({those})"))
            parts.append(named(lambda name: name.removeprefix(prefix), prefix, how=f" ({those}, without it)"))
        else:
            how = f" (with the prefix {prefix} put before their names)"
            parts.append(named(lambda name: prefix + name, below=prefix, how=how))
        if any(not str(part.mismatch) for part in parts):
            break  # the form of `on_load_checkpoint` is only for weights that do not fit
    return max(parts, key=lambda part: len(part.fitting))


def _named(
    values: Mapping[str, Any],
    changed: resized.Record,
    own: Mapping[str, Any],
    rename: Callable[[str], str],
    selected: str = "",
    *,
    below: str = "",
    how: str = "",
) -> _Part:
    """Return the part whose names begin with `selected`, under other names."""
    taken, marked = (
        {rename(name): value for name, value in items.items() if name.startswith(selected)}
        for items in (values, changed)
    )
    return _Part(taken, marked, below, how, own)


def _renamed(name: str, old: str, new: str, own: Mapping[str, Any]) -> str:
    return new + name[len(old) :] if name not in own and name.startswith(old) else name


def _left(found: Mismatch) -> str:
    """Return what is not used of the file, and what the model needs and the file does not have."""
    if found.renaming() is not None:
        return f"; not used: {found}"
    unused = str(replace(found, missing=()))
    lacking = ", ".join(listed(found.missing))
    return (f"; not used: {unused}" if unused else "") + (f"; not in the file: {lacking}" if lacking else "")


def _refusal(weights: load.Weights, model: LightningModule, found: Mismatch, none: bool = False) -> ModelError:
    found, renaming = found.with_shapes(weights.values, model.state_dict()), found.renaming()
    if renaming is not None and not found.shapes:
        cure = f"Set init_weights_prefix={renaming.old}:{renaming.new} to change these names"
    else:
        cure = "Choose the model that it was trained with"
        change = f" and init_weights_prefix={renaming.old}:{renaming.new}" if renaming is not None else ""
        cure += "" if none else f", or take what fits with init_weights_strict=false{change}"
    kind = f"no weight that fits {type(model).__name__}" if none else "the weights of another model"
    return ModelError(f"{weights.path} holds {kind}: {found}. {cure}.")
