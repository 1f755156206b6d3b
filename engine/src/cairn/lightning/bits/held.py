"""Generators that the module, callbacks and the datamodule hold, such as that of an augmentation on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from cairn.data.generators import Generators
from cairn.lightning.loops import parts
from cairn.lightning.reading import modules

_OF_DATA = (Dataset, DataLoader, Sampler, LightningDataModule)
"""Whose generators are seeded for each sample and each order."""
_OF_TORCH = set(vars(nn.Module()))
"""Parameters, parts and hooks, among which a search would reach its limit."""


def generators(trainer: Trainer) -> Generators:
    """Return those that attributes of the three and of parts of the module lead to, and no loader does."""
    data = [*parts.train_loaders(trainer), *parts.val_loaders(trainer)]
    of_data = Generators(**{str(number): vars(one) for number, one in enumerate(data) if hasattr(one, "__dict__")})
    return Generators(**dict(_roots(trainer))).without(of_data)


def _roots(trainer: Trainer) -> Iterator[tuple[str, Any]]:
    named: list[tuple[str, Any]] = [
        (name, part) for name, part in modules.named(trainer.lightning_module) if not modules.is_metric(part)
    ]
    named += [("data", trainer.datamodule)] if trainer.datamodule is not None else []  # for on_after_batch_transfer
    named += [(_name(callback), callback) for callback in trainer.callbacks if not _is_ours(callback)]
    for name, owner in named:
        for attribute, value in list(vars(owner).items()):
            if attribute not in _OF_TORCH and not isinstance(value, _OF_DATA):
                yield f"{name}.{attribute}", value
        yield f"{name}.<class>", type(owner)


def _name(callback: Callback) -> str:
    return type(callback).__name__


def _is_ours(callback: Callback) -> bool:
    return any(kind.__module__.partition(".")[0] == "cairn" for kind in type(callback).__mro__)
