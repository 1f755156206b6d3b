"""The objects whose attributes may be state of the training: those that Lightning knows, and what they wrap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.nn.modules.lazy import LazyModuleMixin
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, IterableDataset
from torchmetrics import Metric

from cairn.data.loader import DataLoader
from cairn.lightning.loops import boundary
from cairn.lightning.reading import code, modules, parts

_INNER = ("wrapped", "dataset", "datasets", "sampler", "batch_sampler", "collate", "args", "data_source")
"""Attributes of datasets, samplers and collate functions of a library that lead to those of the user."""
_DEEPEST, _MOST_INNER = 8, 64
_ROLES = {"dataset": "dataset", "collate_fn": "collate"}
_OF_SCHEDULERS = {"step", "_opt_called", "_step_count", "state", "param_groups", "defaults"}
"""Attributes of an optimizer that a scheduler assigns, and those that every optimizer saves."""
_CONTAINERS = (list, tuple, dict)
_OF_LOOPS = {"should_stop", "accumulate_grad_batches", "val_check_batch"}
"""Attributes of a trainer that its loops assign, or that are in a checkpoint."""
_ITERATING = ("__iter__", "__next__", "set_epoch", "state_dict", "load_state_dict")


@dataclass(frozen=True)
class Owner:
    """An object with attributes."""

    role: str
    """Kind of the object: model, callback, datamodule, dataset, collate, sampler, optimizer, scheduler or trainer."""
    name: str
    """Name of its class, and of its place in the model."""
    number: int
    """Number among the objects with this name, from 1."""
    item: Any
    is_ours: bool = False
    """Whether a `cairn.DataLoader` uses it: it seeds generators, and tries what changes while it is iterated."""

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name if self.number == 1 else f"{self.name} {self.number}"


def owners(trainer: Trainer) -> list[Owner]:
    """Return the objects whose attributes may be state, each once.

    A metric of the model is left out, because its state is saved with its plain attributes, and so is a lazy module.
    """
    found: list[Owner] = []
    numbers: Counter[str] = Counter()
    seen: set[int] = set()
    for role, name, item, is_ours in _all(trainer):
        if item is not None and id(item) not in seen:
            seen.add(id(item))
            numbers[name] += 1
            found.append(Owner(role, name, numbers[name], item, is_ours))
    return found


def _all(trainer: Trainer) -> Iterator[tuple[str, str, Any, bool]]:
    model = trainer.lightning_module
    for name, part in modules.named(model, type(model).__name__):
        if not (isinstance(part, Metric | LazyModuleMixin) or type(part).__module__.startswith("torchmetrics")):
            yield "model", name, part, False
    for callback in trainer.callbacks:
        if not isinstance(callback, Checkpoint):
            yield "callback", type(callback).__name__, callback, False
    datamodule = getattr(trainer, "datamodule", None)
    yield "datamodule", type(datamodule).__name__, datamodule, False
    for loader in [*boundary.train_loaders(trainer), *boundary.val_loaders(trainer)]:
        for attribute in ("dataset", "collate_fn", "sampler", "batch_sampler"):
            for item in _unwrapped(getattr(loader, attribute, None)):
                role = _ROLES.get(attribute, "sampler")
                yield role, _name(item), item, isinstance(loader, DataLoader)
    for config in trainer.lr_scheduler_configs:
        yield "scheduler", type(config.scheduler).__name__, config.scheduler, False
    for optimizer in trainer.optimizers:
        yield "optimizer", type(optimizer).__name__, optimizer, False
    yield "trainer", "Trainer", trainer, False


def _unwrapped(item: Any, depth: int = 0) -> Iterator[Any]:
    """Yield a dataset, sampler or collate function, and those inside of it. Cairn's own ones are left out."""
    kind = type(item)
    package = str(kind.__module__).partition(".")[0]
    if item is None or depth > _DEEPEST:
        return
    if package != "cairn" and kind.__module__ != "functools" and not _is_library_function(item):
        yield item
    if package in ("cairn", "torch", "functools") or isinstance(item, Dataset):
        attributes = dict(parts.fields(item)) | ({"args": item.args} if kind.__module__ == "functools" else {})
        for name in _INNER:
            inner = attributes.get(name)
            for part in list(inner)[:_MOST_INNER] if isinstance(inner, list | tuple) else [inner]:
                if part is not None and (hasattr(part, "__dict__") or hasattr(type(part), "__slots__")):
                    yield from _unwrapped(part, depth + 1)


def _is_library_function(item: Any) -> bool:
    return issubclass(type(item), FunctionType) and not code.is_own(str(item.__globals__.get("__name__")))


def _name(item: Any) -> str:
    return item.__name__ if isinstance(item, FunctionType) else type(item).__name__


def attributes(
    owner: Owner, packages: frozenset[str] = frozenset(), with_tried: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object that may be state, and that no checkpoint holds by itself.

    Args:
        owner: The object.
        packages: Packages of the user's own code.
        with_tried: Also what changes while data is iterated, which a loader tries before the training.
    """
    item, kind = owner.item, type(owner.item)
    if isinstance(item, FunctionType):
        found = parts.of(item)
    elif isinstance(item, _CONTAINERS):
        found = iter([("items", item)])
    elif owner.role == "trainer":
        found = ((name, value) for name, value in parts.fields(item) if _is_of_trainer(name, value))
    elif owner.role in ("callback", "datamodule") and code.is_library(kind):
        found = parts.functions(item)
    elif owner.role in ("optimizer", "scheduler"):
        found = _not_in_state(item, packages)
    else:
        found = parts.own(item, packages)
    ignored = frozenset() if with_tried else _tried(owner)
    yield from ((name, value) for name, value in found if name not in ignored)


def _is_of_trainer(name: str, value: Any) -> bool:
    is_plain = issubclass(type(value), (*parts.SCALARS, list, dict)) or parts.is_tensor(value)
    return is_plain and not name.startswith("_") and name not in _OF_LOOPS and name != "callbacks"


def _tried(owner: Owner) -> frozenset[str]:
    """Return the attributes that a sampler or an iterable dataset assigns while it is iterated.

    A `cairn.DataLoader` compares two epochs of a sampler, and the states of an iterable, before the training.
    """
    kind = type(owner.item)
    if owner.role == "sampler" and not owner.is_ours:
        return code.assigned_by(kind, "set_epoch")  # Lightning calls it again
    is_iterable = owner.role == "dataset" and isinstance(owner.item, IterableDataset)
    if not owner.is_ours or not (is_iterable or owner.role == "sampler"):
        return frozenset()
    return code.assigned_by(kind, *_ITERATING) | code.read_by(kind, "state_dict")


def _not_in_state(item: Any, packages: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an optimizer or scheduler that its state does not hold."""
    held = set(_state_of(item)) | {"optimizer"} | _OF_SCHEDULERS
    for name, value in parts.own(item, packages) if isinstance(item, Optimizer) else parts.fields(item):
        # The state of a LambdaLR has the attributes of a callable object, and nothing of a function.
        is_functions = name == "lr_lambdas" and isinstance(value, list)
        if is_functions:
            yield name, [part for part in value if isinstance(part, FunctionType)]
        elif name not in held and not name.startswith("__"):
            yield name, value
    if not isinstance(item, Optimizer) and not code.is_library(type(item)):
        yield from code.class_attributes(type(item), packages)


def _state_of(item: Any) -> dict[str, Any]:
    """Return the state of an optimizer or scheduler; of torch's own ones, without a call that copies it."""
    function = getattr(type(item), "state_dict", None)
    library = str(getattr(function, "__module__", "")).startswith("torch.")
    if library and isinstance(item, Optimizer):
        return {}
    if library and isinstance(item, LRScheduler) and type(item).__module__.startswith("torch."):
        return dict(parts.fields(item))
    try:
        state = item.state_dict()
    except Exception:  # whatever the user's class raises; the save would raise it, too
        return {}
    return state if isinstance(state, dict) else {}


def saved(trainer: Trainer, found: list[Owner]) -> set[int]:
    """Return the ids of the objects, and the addresses of the tensors, that are in every checkpoint.

    Args:
        trainer: The trainer.
        found: What `owners` returned.
    """
    all_modules = [module for _, module in modules.named(trainer.lightning_module)]
    tensors = [
        tensor
        for module in all_modules
        for name in ("_parameters", "_buffers")
        for tensor in vars(module).get(name, {}).values()
        if tensor is not None
    ]
    ids = {id(item) for item in (*all_modules, *tensors, trainer)}
    ids |= {id(owner.item) for owner in found if not isinstance(owner.item, _CONTAINERS)}
    for optimizer in trainer.optimizers:
        ids |= {id(value) for name, value in parts.fields(optimizer) if name in ("state", "param_groups", "defaults")}
        state = _state_of(optimizer).get("state")
        for values in state.values() if isinstance(state, dict) else ():
            ids |= {id(values), *(map(id, values.values()) if isinstance(values, dict) else ())}
    return ids | {_address(tensor) for tensor in tensors} - {0}


def _address(tensor: Any) -> int:
    try:
        return int(tensor.untyped_storage().data_ptr())
    except (RuntimeError, ValueError, NotImplementedError):  # one that is not created yet
        return 0
