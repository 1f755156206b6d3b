"""Datasets whose items are only read from tensors and arrays: they draw no random numbers, whatever the index.

Seeding the generators for each item, and restoring them after each batch, takes longer than such a batch. What is
found here is certain, because the rules are narrow: the code of an item indexes and combines attributes that are
tensors, arrays or plain values, and calls nothing. Any other dataset is seeded.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import FunctionType, NoneType
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

_PLAIN = (bool, int, float, str, NoneType, torch.Tensor, np.ndarray, np.memmap)
"""Types of the attributes; exactly these, because a class that derives from them may have code of its own."""
_HARMLESS = {
    *("RESUME", "CACHE", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "POP_TOP", "COPY", "SWAP", "PRECALL"),
    *("LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK", "STORE_FAST", "LOAD_ATTR"),
    *("BINARY_SUBSCR", "BINARY_SLICE", "BUILD_SLICE", "BINARY_OP", "UNARY_NEGATIVE", "UNARY_NOT", "COMPARE_OP"),
    *("BUILD_TUPLE", "BUILD_LIST", "BUILD_MAP", "BUILD_CONST_KEY_MAP"),
    *("BINARY_ADD", "BINARY_SUBTRACT", "BINARY_MULTIPLY", "BINARY_TRUE_DIVIDE", "BINARY_FLOOR_DIVIDE"),  # Python 3.10
}
"""Instructions that call no code of the user, if their operands are plain."""
_INDICES = frozenset({int, str})
_MISSING = object()


class OnlyReads:
    """What was found about a dataset, and still has to be so when a batch is fetched.

    Args:
        facts: By object: its class, the name of an attribute, and the attribute.
    """

    def __init__(self, facts: list[tuple[Any, type, str, Any]]) -> None:
        self._facts = facts

    def holds(self, indices: list[Any]) -> bool:
        """Whether no class, method or attribute was replaced since, and the indices of a batch are plain."""
        if not _INDICES.issuperset(map(type, indices)):
            return False
        # A loop, because a generator would take twice as long, for each batch.
        for item, kind, name, value in self._facts:
            if type(item) is not kind or vars(item).get(name) is not value:
                return False
        return True


def find(dataset: Dataset[Any]) -> OnlyReads | None:
    """Return the proof that the items of a dataset are only read; None: they may draw random numbers."""
    facts: list[tuple[Any, type, str, Any]] = []
    for leaf in _leaves(dataset, facts):
        found, kind = _read_by(leaf), type(leaf)
        if found is None:
            return None
        facts += [(leaf, kind, name, value) for name, value in found.items()]
        for base in kind.__mro__:
            method = vars(base).get("__getitem__")  # None: a class that derives from the one with the method
            facts.append((base, type(base), "__getitem__", method))
            if method is not None:
                break
    return OnlyReads(facts)


def _leaves(dataset: Any, facts: list[tuple[Any, type, str, Any]]) -> Iterator[Any]:
    """Yield the datasets behind subsets and concatenations, whose code is torch's; note those in `facts`."""
    if type(dataset) is Subset and type(dataset.indices) in (list, range, tuple):
        facts.append((dataset, Subset, "dataset", dataset.dataset))
        yield from _leaves(dataset.dataset, facts)
    elif type(dataset) is ConcatDataset:
        facts.append((dataset, ConcatDataset, "datasets", dataset.datasets))
        for part in dataset.datasets:
            yield from _leaves(part, facts)
    else:
        yield dataset


def _read_by(dataset: Any) -> dict[str, Any] | None:
    """Return the attributes that an item is read from; None if it does anything else."""
    kind: Any = type(dataset)
    if kind is TensorDataset:
        tensors = dataset.tensors
        return {"tensors": tensors} if all(map(_is_plain, tensors)) else None
    function = inspect.getattr_static(kind, "__getitem__", None)
    if (
        kind.__getattribute__ is not object.__getattribute__
        or not isinstance(function, FunctionType)
        or hasattr(dataset, "__getitems__")
        or not hasattr(dataset, "__dict__")
        or (names := _attributes(function)) is None
    ):
        return None
    found = {name: vars(dataset).get(name, _MISSING) for name in names}
    return found if all(map(_is_plain, found.values())) and not any(hasattr(kind, name) for name in names) else None


def _is_plain(value: Any) -> bool:
    """Return whether reading and combining a value calls no code of the user; objects in an array may have some."""
    return type(value) in _PLAIN and not (isinstance(value, np.ndarray) and value.dtype.hasobject)


def _attributes(function: FunctionType) -> set[str] | None:
    """Return the names of the attributes that a method reads of its object; None if it does anything else."""
    code = function.__code__
    if code.co_argcount != 2 or code.co_kwonlyargcount or code.co_cellvars or code.co_freevars:
        return None
    own, names, loaded_self = code.co_varnames[0], set[str](), False
    for step in dis.get_instructions(function):
        uses_self = step.argval == own and step.opname.startswith(("LOAD_FAST", "STORE_FAST"))
        if step.opname not in _HARMLESS or (uses_self and step.opname == "STORE_FAST"):
            return None
        if loaded_self != (step.opname == "LOAD_ATTR"):  # the object itself must not go anywhere else
            return None
        if loaded_self:
            names.add(step.argval)
        loaded_self = uses_self
    return names
