"""A batch for the forward of a model: the model's own example, or a batch of the data that it was trained with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from cairn import whitelist
from cairn.errors import ModelError, first_line
from cairn.export import outputs
from cairn.targets import build

_LOADERS = {
    "predict_dataloader": "predict",
    "test_dataloader": "test",
    "val_dataloader": "validate",
    "train_dataloader": "fit",
}
"""Methods of a data module, in the order in which they are asked, and the stage that each belongs to."""


@dataclass(frozen=True)
class Example:
    """Arguments of a model's forward."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: str
    """Where they come from, for a message."""

    @property
    def num_rows(self) -> int:
        """Number of samples: the first size of the first tensor; 0 if there is none."""
        sized = [value for value in outputs.tensors([*self.args, *self.kwargs.values()]) if value.dim()]
        return len(sized[0]) if sized else 0

    def take(self, number: int) -> Example:
        """Return an example with this number of samples, which are repeated if there are fewer."""
        rows = self.num_rows
        if not rows:
            return self
        index = torch.arange(number) % rows
        args, kwargs = (_mapped(value, lambda item: _rows(item, rows, index)) for value in (self.args, self.kwargs))
        return Example(args, kwargs, self.source)


def find(model: LightningModule, config: Mapping[str, Any]) -> Example:
    """Return an example that the model accepts.

    Args:
        model: The model, in eval mode.
        config: Configuration of its run; `data` describes its data module.

    Raises:
        ModelError: There is none; the message says why.
    """
    own = getattr(model, "example_input_array", None)
    if own is not None:
        return _tried(model, [_of_array(own)], "example_input_array")
    if not isinstance(config.get("data"), Mapping):
        raise ModelError("it has no example_input_array, and its checkpoint does not describe a data module")
    reasons: list[str] = []
    for data, name in _loaders(config["data"], reasons.append):
        try:
            batch = _transferred(model, data, _first_batch(getattr(data, name)()))
            return _tried(model, _calls(model, batch), f"a batch of {name}")
        except Exception as error:  # code of the user, which may need a trainer, files or a network
            reasons.append(f"{name}: {first_line(error)}")
    raise ModelError(
        "it has no example_input_array, and its data module gives no batch that forward takes"
        f" ({reasons[0] if reasons else 'it has no loaders'})"
    )


def _loaders(spec: Any, failed: Callable[[str], None]) -> Iterator[tuple[LightningDataModule, str]]:
    """Yield the data module, and the names of its loaders, each after the `setup` of its stage."""
    for name in whitelist.named_in(spec):  # the checkpoint may come from other people
        if why := whitelist.why_not_listed(name):
            failed(f"{name} is refused: {why}; [tool.cairn] allow in pyproject.toml allows it")
            return
    try:
        data: LightningDataModule = build(spec, LightningDataModule)
        data.prepare_data()
    except Exception as error:
        failed(first_line(error))
        return
    for name, stage in _LOADERS.items():
        if is_overridden(name, data, LightningDataModule):
            try:
                data.setup(stage)
            except Exception as error:
                failed(f"setup({stage!r}): {first_line(error)}")
                continue
            yield data, name


def _first_batch(loader: Any) -> Any:
    while isinstance(loader, list | tuple | Mapping):  # several loaders
        loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader), None)
    if loader is None:
        raise ModelError("it has no loader")
    for batch in loader:
        return batch
    raise ModelError("its loader is empty")


def _transferred(model: LightningModule, data: LightningDataModule, batch: Any) -> Any:
    """Return the batch as the hooks of the project change it, where Lightning would call them."""
    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
        owner = data if is_overridden(hook, data, LightningDataModule) else model
        batch = getattr(owner, hook)(batch, 0)
    return batch


def _of_array(example: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the arguments that `example_input_array` stands for, by Lightning's rules."""
    if isinstance(example, Mapping):
        return (), example
    return (tuple(example) if isinstance(example, list | tuple) else (example,)), {}


def _calls(model: LightningModule, batch: Any) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Yield the ways to call forward with a batch: as a whole, as Lightning's predict_step does, or with a part."""
    yield (batch,), {}
    found = inspect.signature(model.forward).parameters.values()
    places = [item for item in found if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    needed = [item for item in places if item.default is item.empty]
    if isinstance(batch, Mapping):
        names = {item.name for item in found if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}
        takes_all = any(item.kind is item.VAR_KEYWORD for item in found)
        yield (), {name: value for name, value in batch.items() if takes_all or name in names}
    elif isinstance(batch, list | tuple):
        for number in dict.fromkeys((len(needed), len(places))):
            if 0 < number <= len(batch):
                yield tuple(batch[:number]), {}


def _tried(model: LightningModule, calls: Any, source: str) -> Example:
    """Return the first call that works.

    Raises:
        ModelError: None does.
    """
    reasons: list[str] = []
    for args, kwargs in calls:
        try:
            outputs.of(model, args, kwargs)
        except Exception as error:
            reasons.append(first_line(error))
        else:
            return Example(args, kwargs, source)
    raise ModelError(f"forward of {type(model).__name__} does not take it ({'; or '.join(dict.fromkeys(reasons))})")


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return nested values with each tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        made = {name: _mapped(item, function) for name, item in value.items()}
        if type(value) is dict:
            return made
        changed = copy.copy(value)  # a batch of another library, which behaves like a dict
        try:
            changed.update(made)  # type: ignore[attr-defined]
            return changed
        except AttributeError:
            return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function) for item in value))
    return type(value)(_mapped(item, function) for item in value) if isinstance(value, list | tuple) else value


def _rows(value: Tensor, rows: int, index: Tensor) -> Tensor:
    return value[index] if value.dim() and len(value) == rows else value


def all_tensors(values: Sequence[Any]) -> bool:
    """Whether nested arguments hold nothing but tensors."""
    for value in values:
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list | tuple):
            if not all_tensors(value):
                return False
        elif not isinstance(value, Tensor):
            return False
    return True
