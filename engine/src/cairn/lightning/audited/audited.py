"""The objects whose attributes are audited, during one process."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import Dataset

from cairn.lightning.audited import values
from cairn.lightning.reading import attributes, code, owners, parts
from cairn.lightning.reading.attributes import Attributes


class AuditedObjects:
    """The objects that attributes belong to, by label, such as `Net.layer`.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._known: dict[str, Callable[[], Any]] = {}
        self._sizes: dict[str, int] = {}
        """Number of samples of each dataset when it was first seen."""

    def update(self) -> set[str]:
        """Take the objects that there are now. Returns the labels that belonged to another object before.

        A loader that is built again, with its dataset, is such a case: nothing has changed the attributes of either.
        """
        now = self.all()
        replaced = {label for label, item in now.items() if label in self._known and self._known[label]() is not item}
        self._known = {label: _reference(item) for label, item in now.items()}
        for label in now.keys() & self._sizes.keys() & replaced:
            del self._sizes[label]
        self._sizes = {label: size for label, item in now.items() if (size := _size(item)) is not None} | self._sizes
        return replaced

    def all(self) -> dict[str, Any]:
        """Return the objects that there are now."""
        return attributes.by_label(owners.owners(self.trainer))

    def find(self, name: str) -> tuple[Any, str]:
        """Return the object that an attribute such as `Net.temperature` belongs to, or None, and `temperature`."""
        label, _, attribute = name.rpartition(".")
        return self._known[label]() if label in self._known else None, attribute

    def without_opened(self, saved: Attributes, now: Attributes) -> Attributes:
        """Leave out what data opens or computes when a sample is read, and has not opened yet.

        Whether that depends on more than the data is tried before training, see `hidden_state`.

        Args:
            saved: Attributes at a save.
            now: Attributes of this process.
        """
        unset = {name for name in saved if values.is_unset(now.get(name))}
        opened = self._opened(unset) if unset else set()
        return {name: value for name, value in saved.items() if name not in opened}

    def _opened(self, names: Iterable[str]) -> set[str]:
        found = owners.owners(self.trainer)
        kinds = {type(owner.item) for owner in found if isinstance(owner.item, nn.Module | Callback)}
        packages = attributes.packages_of(found)
        elsewhere = {
            name for kind in kinds for one in code.own_functions(kind, packages) for name in code.assigned(one.__code__)
        }
        return {name for name in names if _opens(*self.find(name)) and name.rpartition(".")[2] not in elsewhere}

    def value(self, name: str) -> Any:
        """Return the attribute itself; None if it is gone."""
        owner, attribute = self.find(name)
        return dict(parts.fields(owner)).get(attribute)

    def value_or_global(self, name: str) -> Any:
        """Return the attribute itself, or a global variable; None if it is gone."""
        label, _, attribute = name.rpartition(".")
        return self.value(name) if label in self._known else dict(parts.fields(sys.modules.get(label))).get(attribute)

    def is_stamp(self, name: str) -> bool:
        """Whether an attribute of a dataset is a time that its class does not read: when it was last used."""
        owner, attribute = self.find(name)
        is_time = isinstance(owner, Dataset) and values.is_stamp(self.value(name))
        return is_time and not code.reads(type(owner), attribute)

    def growth(self, names: Iterable[str]) -> str:
        """Return a sentence that warns of a refused resume, if a dataset that has these attributes has grown."""
        for label in {name.rpartition(".")[0] for name in names} & self._sizes.keys():
            before, now = self._sizes[label], _size(self._known[label]())
            if before != now:
                return (
                    f"{label} has {now} samples and had {before} at the start: a resume is refused unless a checkpoint "
                    f"holds them. "
                )
        return ""


def _reference(item: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(item)
    except TypeError:  # a class with __slots__
        return lambda: item


def _size(item: Any) -> int | None:
    if not isinstance(item, Dataset):
        return None
    try:
        return len(item)  # type: ignore[arg-type]
    except Exception:  # an iterable one; code of the user
        return None


def _opens(owner: Any, attribute: str) -> bool:
    """Whether an object of the data fills an attribute when a sample is read."""
    if owner is None or isinstance(owner, nn.Module | Callback):
        return False
    is_computed = isinstance(inspect.getattr_static(type(owner), attribute, None), cached_property)
    return is_computed or attribute in code.assigned_by(type(owner), "__getitem__", "__getitems__")
