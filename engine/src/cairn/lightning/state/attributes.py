"""Plain attributes of the user's own objects, as values that can be compared and stored."""

from __future__ import annotations

import dis
import hashlib
import random
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torchmetrics import Metric

from cairn.data.seeding import SeededItems
from cairn.lightning.loops import boundary

Attributes = dict[str, Any]
"""Values by name, such as `Net.temperature`: plain scalars as they are, everything else as a digest."""

_LIBRARIES = {"lightning", "pytorch_lightning", "torch", "torchmetrics", "cairn", "builtins", "abc", "typing"}
_SCALARS = (bool, int, float, str, type(None))
_MAX_TEXT, _MAX_DEPTH, _MAX_ITEMS, _MAX_ELEMENTS = 80, 4, 256, 1 << 18
"""Longest text that is stored; deepest nesting; items of a container and elements of a tensor that are read."""
_MAX_ATTRIBUTES, _MAX_READ, _MAX_ELEMENTS_OF_ALL = 2000, 5000, 1 << 21
"""Attributes of all objects together; values that are read for one of them; elements of all tensors together."""
EMPTY = "<empty>"
"""Value of an empty container."""
_PREFIXES = ("__", "_hparams")
"""Beginnings of names that do not belong to the user: `save_hyperparameters` assigns the second ones."""


def of_trainer(trainer: Trainer, only: Collection[str] | None = None) -> Attributes:
    """Return the plain attributes of the module, its parts, the callbacks, the datamodule and the training data.

    Attributes that a library assigns are its own business, and parameters and buffers are in every checkpoint.
    The cost is bounded: of large containers and tensors, a part is read.

    Args:
        trainer: The trainer, in a fit.
        only: Names of the attributes to read; None: all.
    """
    module, budget = trainer.lightning_module, Budget()
    saved = {id(item) for item in (*module.modules(), *module.parameters(), *module.buffers(), *trainer.optimizers)}
    saved |= {id(config.scheduler) for config in trainer.lr_scheduler_configs} | {id(trainer)}
    owners = list(_owners(trainer))
    saved |= {id(item) for _, item in owners}
    found = (
        (f"{label}.{name}", _plain(value, saved, budget))
        for label, item in owners
        for name, value in _own(item)
        if id(value) not in saved and (only is None or f"{label}.{name}" in only)
    )
    return dict(islice(((name, value) for name, value in found if value is not _OPAQUE), _MAX_ATTRIBUTES))


def value_of(value: Any) -> Any:
    """Return a value in the form in which `of_trainer` returns those of attributes."""
    return _plain(value, set(), Budget())


def owners_by_label(trainer: Trainer) -> dict[str, Any]:
    """Return the objects that the attributes belong to, by the beginnings of the names."""
    return dict(_owners(trainer))


def _owners(trainer: Trainer) -> Iterator[tuple[str, Any]]:
    module = trainer.lightning_module
    label = type(module).__name__
    found = [(f"{label}.{name}" if name else label, part) for name, part in module.named_modules()]
    callbacks = [item for item in trainer.callbacks if not isinstance(item, Checkpoint)]
    found += [(type(item).__name__, item) for item in (*callbacks, trainer.datamodule)]
    for loader in boundary.train_loaders(trainer):
        dataset = getattr(loader, "dataset", None)
        dataset = dataset.dataset if isinstance(dataset, SeededItems) else dataset
        found += [(type(item).__name__, item) for item in (dataset, getattr(loader, "collate_fn", None))]
    known: Counter[str] = Counter()
    for name, item in found:
        # The state of a torchmetrics object is saved with its plain attributes.
        if item is not None and not _is_library(type(item)) and not isinstance(item, Metric):
            known[name] += 1
            yield name if known[name] == 1 else f"{name} {known[name]}", item


def _own(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that the user's code assigns."""
    theirs = library_names(type(item))  # type: ignore[arg-type]  # every class can be hashed
    for name, value in list(getattr(item, "__dict__", {}).items()):
        if name not in theirs and not name.startswith(_PREFIXES):
            yield name, value


@cache
def library_names(kind: type) -> frozenset[str]:
    """Return the names of the attributes that the library classes among the bases of a class assign."""
    names: set[str] = set()
    made: tuple[Any, ...] = (nn.Module(), LightningModule(), LightningDataModule(), Callback())
    for item in made:
        if issubclass(kind, type(item)):
            names |= vars(item).keys()
    for base in filter(_is_library, kind.__mro__):
        for member in vars(base).values():
            member = member.fset if isinstance(member, property) else getattr(member, "__wrapped__", member)
            if isinstance(member, FunctionType):
                names |= {item.argval for item in dis.get_instructions(member) if item.opname == "STORE_ATTR"}
    return frozenset(names)


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES


class _Opaque:
    """Value of an attribute that cannot be compared."""


_OPAQUE = _Opaque()


def _plain(value: Any, saved: set[int], budget: Budget) -> Any:
    if type(value) in _SCALARS and len(str(value)) <= _MAX_TEXT:
        return value
    if isinstance(value, Mapping | list | tuple | set | frozenset | deque) and not value:
        return EMPTY
    reader = _Reader(saved, budget)
    return reader.digest.hexdigest() if reader.add(value) else _OPAQUE


@dataclass
class Budget:
    """Elements of tensors that may still be read in one pass over all attributes."""

    num_elements: int = _MAX_ELEMENTS_OF_ALL


@dataclass
class _Reader:
    """Feeds values to a digest.

    Args:
        saved: Ids of objects that are in every checkpoint anyway.
        budget: Of the pass.
    """

    saved: set[int]
    budget: Budget
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    seen: set[int] = field(default_factory=set)
    num_left: int = _MAX_READ
    """Values that may still be read."""

    def add(self, value: Any, depth: int = 0) -> bool:
        """Add a value. Returns False if nothing in it can be compared."""
        if id(value) in self.saved or depth > _MAX_DEPTH or not self.num_left:
            return False
        self.num_left -= 1
        if isinstance(value, str | bytes) and len(value) > _MAX_READ:  # a whole corpus may be one string
            self._text(f"{type(value).__name__} {len(value)} {value[:_MAX_ITEMS]!r} {value[-_MAX_ITEMS:]!r}")
        elif isinstance(value, (*_SCALARS, bytes, np.generic)):
            self._text(f"{type(value).__name__} {value!r}")
        elif isinstance(value, Tensor | np.ndarray):
            self._array(value)
        elif isinstance(value, Mapping):
            self._text(f"mapping {len(value)}")
            return self._all(value, depth) | self._all(value.values(), depth) or not value
        elif isinstance(value, list | tuple | deque):
            self._text(f"sequence {len(value)}")
            return self._all(value, depth) or not value
        elif isinstance(value, set | frozenset):
            # In which order a set yields its items differs between processes: of a large one, the size is compared.
            self._text(f"set {sorted(map(repr, value)) if len(value) <= _MAX_READ else ''} {len(value)}")
        else:
            return self._object(value, depth)
        return True

    def _all(self, values: Any, depth: int) -> bool:
        head = [self.add(value, depth + 1) for value in islice(values, _MAX_ITEMS)]
        tail = [self.add(value, depth + 1) for value in values[-4:]] if isinstance(values, list) else []
        return any(head) or any(tail)

    def _array(self, value: Any) -> None:
        self._text(f"{value.dtype} {tuple(value.shape)}")
        if isinstance(value, np.memmap):  # a file: to read a part of it would read all of its pages from the disk
            return
        tensor = value.detach() if isinstance(value, Tensor) else _as_tensor(value)
        if tensor is None:
            self._text(repr(value))
        elif tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta and tensor.numel():
            flat = tensor.reshape(-1)
            part = flat[:: -(-flat.numel() // _MAX_ELEMENTS)]
            self.budget.num_elements -= part.numel()
            if self.budget.num_elements < 0:
                return
            # Sums in place of bytes, so that a large tensor stays on its device.
            part = torch.view_as_real(part).reshape(-1) if part.is_complex() else part
            exact = part.double()
            weights = torch.arange(1, exact.numel() + 1, device=part.device, dtype=exact.dtype)
            self._text(f"{float(exact.sum())!r} {float(exact @ weights)!r} {part[:8].tolist()}")

    def _object(self, value: Any, depth: int) -> bool:
        if id(value) in self.seen:
            return False
        self.seen.add(id(value))
        if (generator := _generator_state(value)) is not None:
            return self.add(generator, depth)
        if isinstance(value, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
            return self.add(value.state_dict(), depth - 1)  # one that is not registered, such as a teacher in a list
        if isinstance(value, type | FunctionType | ModuleType) or _is_library(type(value)):
            return False
        parts = [self.add(item, depth + 1) for name, item in _own(value) if self.add(name)]  # all of them are read
        return any(parts)

    def _text(self, text: str) -> None:
        self.digest.update(text.encode("utf-8", "replace") + b"\0")


def _as_tensor(array: Any) -> Tensor | None:
    flat = array.reshape(-1)
    try:
        # A copy of the part that is read: torch warns of an array that cannot be written.
        return torch.from_numpy(flat[:: max(1, -(-flat.size // _MAX_ELEMENTS))].copy())
    except (TypeError, ValueError, RuntimeError):  # strings, objects
        return None


def _generator_state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return repr(hash(value.getstate()[1]))
    return None
