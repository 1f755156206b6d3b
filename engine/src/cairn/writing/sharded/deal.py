"""What a rank writes of the tensors that several ranks have, or have a part of.

DDP     parameters and optimizer states are equal on all ranks: their storages are cut into equal shares (`Dealer`)
FSDP2   each rank has rows or blocks of its own: a `Deal` is made of them, see `rows.deal`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cairn.writing import subclasses
from cairn.writing.encode import encode, piece
from cairn.writing.sharded import cuts

Place = tuple[int, int]
"""Address of a storage's first byte in a file, and how many bytes the file has of it."""


@dataclass(frozen=True)
class Piece:
    """A range of the bytes of a storage, or a tile of them.

    Attributes:
        name: Name of the storage: the path to the first tensor in it.
        first: First byte in the storage.
        num_bytes: Size of the whole storage, in bytes.
        data: The bytes, in the memory of this rank.
        runs: Of a tile: length of a run and distance between two of them, in bytes. None: a range.
    """

    name: str
    first: int
    num_bytes: int
    data: Tensor
    runs: tuple[int, int] | None = None


@dataclass(frozen=True)
class Deal:
    """What one rank writes.

    Attributes:
        layout: Digest of what all ranks have to agree on: the names and sizes of the storages, and how they are cut.
        pieces: The ranges that this rank writes.
        names: Names of the storages by their places in the memory of this rank, see `place_of`.
    """

    layout: str = ""
    pieces: Sequence[Piece] = ()
    names: Mapping[Place, str] = field(default_factory=dict)


def named_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a part of a checkpoint, each with the path to it: `optimizer_states/0/state/3/exp_avg`.

    Args:
        value: The part. A subclass of Tensor is taken apart, as in a file; other kinds of values are skipped.
        name: The path to it.
    """
    if isinstance(value, Tensor):
        if type(value) in (Tensor, nn.Parameter):
            yield name, value
        elif not is_lazy(value) and (found := subclasses.apart(value)) is not None:
            yield from named_tensors(found[1], name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from named_tensors(item, f"{name}/{number}")


def replicated(contents: Mapping[str, Any], parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the tensors that are equal on all ranks under DDP: parameters, and the states of optimizers.

    Buffers are not among them: without synchronisation, the statistics of a BatchNorm differ between ranks.

    Args:
        contents: Contents of a checkpoint, as every rank has them before its own state is added.
        parameters: Parameters of the model.

    Returns:
        The tensors by name.
    """
    memories = {_memory(parameter) for parameter in parameters if not is_lazy(parameter)}
    weights = named_tensors(contents.get("state_dict", {}), "state_dict")
    found = {name: tensor for name, tensor in weights if _is_plain(tensor) and _memory(tensor) in memories}
    states = named_tensors(contents.get("optimizer_states", []), "optimizer_states")
    return found | {name: tensor for name, tensor in states if _is_plain(tensor)}


@dataclass(frozen=True)
class _Cut:
    """A range of bytes that this rank writes, without a reference to its memory."""

    name: str
    first: int
    """First byte in the storage, as the file has it."""
    num_bytes: int
    """Size of that storage."""
    tensor: int
    """Number of a tensor that views the storage."""
    start: int
    end: int
    """First byte in the memory of that tensor, and the byte after the last one."""


@dataclass(frozen=True)
class _Plan:
    """How tensors are dealt out while they stay where they are in memory."""

    layout: str
    cuts: Sequence[_Cut]
    names: Mapping[Place, str]


class Dealer:
    """Deals out one state after the other, and reuses the cuts while the tensors stay where they are in memory.

    Args:
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._known: tuple[list[str], list[Any]] | None = None
        self._plan = _Plan("", (), {})

    def deal(self, tensors: Mapping[str, Tensor]) -> Deal:
        """Return what this rank writes of tensors that all ranks have.

        Args:
            tensors: They have the same names, sizes and order on all ranks. Those that share memory stay together.

        Raises:
            UnsafeStateError: Two of them read the same memory as different types.
        """
        values = list(tensors.values())
        places = [(item.data_ptr(), item.storage_offset(), item.dtype, item.shape, item.stride()) for item in values]
        known = (list(tensors), places)
        if self._known != known:
            self._plan, self._known = self._planned(tensors), known
        plan = self._plan
        pieces = [
            Piece(cut.name, cut.first, cut.num_bytes, piece(values[cut.tensor], cut.start, cut.end))
            for cut in plan.cuts
        ]
        return Deal(plan.layout, pieces, plan.names)

    def _planned(self, tensors: Mapping[str, Tensor]) -> _Plan:
        encoded = encode(list(tensors.values()), "the replicated state")
        first: dict[int, tuple[str, int]] = {}
        for number, (name, tensor) in enumerate(tensors.items()):  # the order in which the encoder numbers the storages
            first.setdefault(_memory(tensor), (name, number))
        names, starts = [name for name, _ in first.values()], [_start(storage) for storage in encoded.storages]
        numbers, found = [number for _, number in first.values()], []
        for cut in cuts.even(encoded.sizes, self.rank, self.world_size):
            start, size = starts[cut.storage], encoded.sizes[cut.storage]
            inside = (numbers[cut.storage], start + cut.first, start + cut.end)
            found.append(_Cut(names[cut.storage], cut.first, size, *inside))
        places = {place_of(part): name for part, name in zip(encoded.storages, names, strict=True)}
        return _Plan(layout("even", names, encoded.sizes), found, places)


def layout(way: str, names: Sequence[str], sizes: Sequence[int]) -> str:
    """Digest of the storages that are dealt out.

    Args:
        way: How they are cut.
        names: Their names.
        sizes: Their sizes, in bytes.
    """
    return "sha256:" + hashlib.sha256(json.dumps([way, [*names], [*sizes]]).encode()).hexdigest()


def bytes_of(tensor: Tensor, cut: cuts.Range) -> Tensor:
    """Bytes of the memory of a tensor that stands for a storage, see `Encoded.storages`."""
    start = _start(tensor)
    return piece(tensor, start + cut.first, start + cut.end)


def place_of(tensor: Tensor) -> Place:
    """Return which storage a tensor stands for, see `Encoded.storages`."""
    return tensor.data_ptr() or _memory(tensor) + _start(tensor), tensor.nbytes


def _memory(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    return storage.data_ptr() or storage._cdata  # a tensor without memory, of the device `meta`, has its own identity


def _start(tensor: Tensor) -> int:
    """Offset of a tensor in its storage, in bytes."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _is_plain(tensor: Tensor) -> bool:
    """Whether the bytes in memory are those in the file."""
    odd = tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta
    return not odd and tensor.data_ptr() != 0 and not tensor.is_conj() and not tensor.is_neg()
