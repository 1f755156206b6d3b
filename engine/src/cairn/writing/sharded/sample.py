"""A sample of the values that all ranks should have in common, so that each save can notice if they do not any more.

    a tensor     |x.....x.....x.....x...|     one value of each step, about the same share of every tensor
    next save    |...x.....x.....x.....x|     other places, which the id of the save chooses: the same on all ranks

A difference in most values of any tensor is noticed at once, and that of a few rows after some saves. What is small,
such as the number of steps, is compared as a whole.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NUM_VALUES = 2**14
"""How many values of a state are compared, and at least `_LEAST` of each tensor: each lies in a page of its own."""
_LEAST = 8


@dataclass(frozen=True)
class _Group:
    """Values of the tensors of one type on one device."""

    counts: Mapping[str, int]
    """Number of values of each tensor."""
    data: bytes

    def parts(self) -> dict[str, bytes]:
        """Return the values of each tensor."""
        itemsize, start, found = len(self.data) // sum(self.counts.values()), 0, {}
        for name, count in self.counts.items():
            end = start + count * itemsize
            found[name], start = self.data[start:end], end
        return found


@dataclass(frozen=True)
class Sample:
    """Values of a state, and plain values that belong to it.

    Attributes:
        plain: Texts by name, such as the options of an optimizer.
        groups: The sampled values.
    """

    plain: Mapping[str, str]
    groups: Mapping[str, _Group]

    @property
    def number(self) -> int:
        """Digest of everything, as a number between 0 and 2**62."""
        digest = hashlib.blake2b(repr(sorted(self.plain.items())).encode(), digest_size=8)
        for kind, group in self.groups.items():
            digest.update(f"{kind} {group.counts}".encode())
            digest.update(group.data)
        return int.from_bytes(digest.digest(), "big") >> 2

    def checksums(self) -> dict[str, str | int]:
        """Return what to compare of each tensor and of each plain value, by name."""
        found: dict[str, str | int] = dict(self.plain)
        for group in self.groups.values():
            found |= {name: zlib.crc32(data) for name, data in group.parts().items()}
        return found


def take(tensors: Mapping[str, Tensor], plain: Mapping[str, str], save: str) -> Sample:
    """Take a sample.

    Args:
        tensors: Tensors that all ranks should have in common, by name, in the same order.
        plain: Plain values, likewise.
        save: Id of the save, in hexadecimal digits.
    """
    total, seed = sum(tensor.numel() for tensor in tensors.values()), int(save, 16)
    grouped: dict[tuple[Any, ...], dict[str, Tensor]] = {}
    with torch.no_grad():
        for name, tensor in tensors.items():
            if found := _values(tensor, total, seed):
                grouped.setdefault((tensor.device, tensor.dtype), {})[name] = found[0]
        groups = {
            f"{device.type} {dtype}": _Group({name: len(item) for name, item in some.items()}, _bytes(some))
            for (device, dtype), some in grouped.items()
        }
    return Sample(plain, groups)


def _values(tensor: Tensor, total: int, seed: int) -> list[Tensor]:
    """Return a view of some values, if there are any."""
    size = tensor.numel()
    if size == 0:
        return []
    count = min(size, max(_LEAST, NUM_VALUES * size // total))
    step = size // count
    if not _is_dense(tensor):
        return [tensor.flatten()[seed % step :: step][:count]]
    # In the order of the memory, whatever that of the dimensions is.
    return [tensor.as_strided((count,), (step,), tensor.storage_offset() + seed % step)]


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return last + 1 == tensor.numel()


def _bytes(some: Mapping[str, Tensor]) -> bytes:
    values = list(some.values())
    if values[0].dtype.itemsize == 1:
        values = [item.view(torch.uint8) for item in values]
    joined = torch.cat(values).cpu().view(torch.uint8)
    return joined.numpy().tobytes()
