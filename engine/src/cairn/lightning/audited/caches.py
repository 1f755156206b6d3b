"""Attributes that were empty and got a value once: caches, which a resumed run fills again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cairn.lightning.audited import values
from cairn.lightning.reading import attributes
from cairn.lightning.reading.attributes import Attributes

_NUM_READ = 4096
"""Elements of a tensor that are read to see where it comes from."""
_NUM_ENTRIES = 64
"""Largest dict that may be a cache of several values."""
_NUM_DIGITS = 8
"""Length of a number as text, up to which it may stand in the code."""


class Caches:
    """The first values of attributes that were empty or None: as long as they stay, they may be caches."""

    def __init__(self) -> None:
        self._filled: Attributes = {}
        self._entries: dict[str, dict[Any, Any]] = {}
        """Entries of dicts that grow."""

    def note(self, changed: Iterable[str], before: Attributes | None, now: Attributes) -> None:
        """Note the attributes that were empty and are filled.

        Args:
            changed: Names of attributes that have changed.
            before: Values before.
            now: Values now.
        """
        for name in changed:
            if name in now and name not in self._filled and values.is_unset((before or {}).get(name)):
                self._filled[name] = now[name]

    def names(self, now: Attributes, value: Callable[[str], Any], is_read: Callable[[str], bool]) -> set[str]:
        """Return the names of attributes that seem to be caches.

        Args:
            now: Values now.
            value: Returns the attribute of a name itself.
            is_read: Whether training reads it: what is computed from a batch is then not a cache.
        """
        found = set()
        for name in self._filled.keys() & now.keys():
            item = value(name)
            grows = self._only_grows(name, item)
            if grows or (values.same(self._filled[name], now[name]) and not (is_read(name) and comes_from_data(item))):
                found.add(name)
        return found

    def _only_grows(self, name: str, item: Any) -> bool:
        """Whether a dict of tables or fractions has kept the entries that it had before."""
        if not isinstance(item, dict) or len(item) > _NUM_ENTRIES:
            return False
        before, entries = self._entries.get(name, {}), {key: attributes.value_of(part) for key, part in item.items()}
        self._entries[name] = entries
        kinds = Tensor | np.ndarray | float
        tables = all(isinstance(part, kinds) and not comes_from_data(part) for part in item.values())
        return tables and all(key in entries and values.same(entries[key], part) for key, part in before.items())


def comes_from_data(value: Any, depth: int = 0) -> bool:
    """Whether a value seems to be computed from data, weights or random numbers.

    Masks, ranges, lengths and tables of positions are functions of a size: they have whole numbers, few different ones,
    or a first row of few different ones. Numbers computed from a batch do not look like this.
    """
    if isinstance(value, float):  # a loss has 32 bits
        is_short = abs(value) < 3e38 and struct.unpack("f", struct.pack("f", value))[0] == value
        return is_short and len(repr(value)) > _NUM_DIGITS
    if isinstance(value, np.ndarray):
        part = value[tuple(slice(64) for _ in value.shape)]
        return value.dtype.kind == "f" and not isinstance(value, np.memmap) and _is_irregular(torch.tensor(part))
    if isinstance(value, Tensor):
        plain = value.layout is torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)
        return plain and value.is_floating_point() and _is_irregular(value.detach())
    if isinstance(value, nn.Module):
        return any(True for _ in value.parameters())
    if depth < 3 and isinstance(value, Mapping | list | tuple):
        items = list(value.values()) if isinstance(value, Mapping) else value
        return any(comes_from_data(item, depth + 1) for item in items[:64])
    return False


def _is_irregular(numbers: Tensor) -> bool:
    numbers = numbers.squeeze()
    part = numbers.reshape(-1)[:_NUM_READ].float()
    if part.numel() <= 1:
        return any(comes_from_data(float(number)) for number in part)
    if part.unique().numel() <= 2 or bool((part == part.round()).all()):
        return False
    first = [numbers.select(axis, 0).reshape(-1)[:_NUM_READ] for axis in range(numbers.dim()) if numbers.dim() > 1]
    return not any(row.numel() >= 4 and row.unique().numel() <= 2 for row in first)
