"""A sample of the values that all ranks should have in common, so that each save can notice if they do not any more.

    a tensor     |x.....x.....x.....x...|     one value of each step, about the same share of every tensor
    next save    |...x.....x.....x.....x|     other places, which the id of the save chooses: the same on all ranks

A difference in most values of a tensor is noticed at once, and that of a few rows after some saves. Single numbers,
such as those of steps, are always compared. Of more tensors than `NUM_TENSORS`, each save takes others.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NUM_VALUES = 2**14
"""How many values of a state are compared, and at least `_LEAST` of each tensor: each lies in a page of its own."""
NUM_TENSORS = 512
"""Upper limit for the tensors of one sample: each takes a few microseconds."""
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
    seed = int(save, 16)
    numbers = {name: tensor for name, tensor in tensors.items() if not tensor.dim()}
    others = [(name, tensor) for name, tensor in tensors.items() if tensor.dim() and tensor.numel()]
    every = max(1, -(-len(others) // NUM_TENSORS))
    chosen = others[seed % every :: every]
    total = sum(tensor.numel() for _, tensor in chosen)
    with torch.no_grad():
        values = {name: _values(tensor, total, seed // every) for name, tensor in chosen}
        groups = _grouped(numbers, torch.stack) | _grouped(values, torch.cat)
    return Sample(plain, groups)


def _values(tensor: Tensor, total: int, seed: int) -> Tensor:
    """Return a view of some values."""
    size = tensor.numel()
    count = min(size, max(_LEAST, NUM_VALUES * size // total))
    step = size // count
    if not _is_dense(tensor):
        return tensor.flatten()[seed % step :: step][:count]
    # In the order of the memory, whatever that of the dimensions is.
    return tensor.as_strided((count,), (step,), tensor.storage_offset() + seed % step)


def _grouped(values: Mapping[str, Tensor], join: Callable[[Any], Tensor]) -> dict[str, _Group]:
    kinds: dict[tuple[Any, ...], dict[str, Tensor]] = {}
    for name, tensor in values.items():
        kinds.setdefault((tensor.device, tensor.dtype, tensor.dim()), {})[name] = tensor
    return {
        f"{device.type} {dtype} {num_dims}": _Group(
            {name: tensor.numel() for name, tensor in some.items()}, _bytes(list(some.values()), join)
        )
        for (device, dtype, num_dims), some in kinds.items()
    }


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return last + 1 == tensor.numel()


def _bytes(values: list[Tensor], join: Callable[[Any], Tensor]) -> bytes:
    if values[0].dtype.itemsize == 1:
        values = [item.view(torch.uint8) for item in values]
    return join(values).cpu().view(torch.uint8).numpy().tobytes()
