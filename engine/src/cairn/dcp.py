"""Reads checkpoints of Cairn with `torch.distributed.checkpoint`, on any number of processes.

    state = {"state_dict": model.state_dict()}
    torch.distributed.checkpoint.load(state, storage_reader=cairn.dcp.Reader("epoch_000_batch_000150.ckpt"))

Each process reads only the bytes that its part of each tensor needs. Nothing is unpickled: torch's own reader calls
`pickle.load` for its metadata, and this one builds them from the plain values and tensors of the checkpoint.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from cairn.errors import CheckpointError
from cairn.store import links, shards
from cairn.store.catalog import verify_file
from cairn.writing import forms
from cairn.writing.load import load
from cairn.writing.sharded.assemble import Part, Shards

__all__ = ["Reader"]


@dataclass(frozen=True)
class _Block:
    """A block of a tensor, and its bytes in a shard."""

    offsets: torch.Size
    sizes: torch.Size
    data: Tensor


class Reader(StorageReader):
    """A storage reader for a checkpoint of Cairn: a directory of shards, a single file, or a link to one of them.

    The names are those of the contents, joined by dots as `torch.distributed.checkpoint` does: `state_dict.net.weight`.

    Args:
        path: The checkpoint.
        verify: Compare all bytes with their checksums first; one process does that for all.
    """

    def __init__(self, path: str | Path, verify: bool = True) -> None:
        super().__init__()
        self._path, self._verify = Path(path), verify
        self._shards: Shards | None = None
        self._split: dict[int, str] = {}
        """Names of the storages that several shards have a part of, by the identities of their stand-ins."""
        self._values: dict[str, Any] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """Read another checkpoint from now on.

        Args:
            checkpoint_id: Its path; None: the same one again.
        """
        if checkpoint_id is not None:
            self._path = Path(checkpoint_id)
        self._shards, self._split, self._values = None, {}, {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the names, shapes and chunks of all tensors.

        Raises:
            CheckpointError: The checkpoint is missing or corrupt.
        """
        self._values, mappings = flatten_state_dict(self._contents())
        return Metadata({name: self._described(value) for name, value in self._values.items()}, planner_data=mappings)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Verify the checkpoint, on one process.

        Args:
            metadata: What `read_metadata` has returned.
            is_coordinator: Whether this is that process.
            *args: What later versions of torch add; ignored.
            **kwargs: The same.

        Raises:
            CheckpointError: It is corrupt.
        """
        if is_coordinator and self._verify:
            try:
                verify_file(links.target(self._path))
            except CheckpointError as error:
                raise CheckpointError(f"{self._path} cannot be used: {error}.") from error

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what a plan asks for.

        Args:
            plan: What this process needs.
            planner: Takes it.
        """
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, _as_bytes(self._values[item.storage_index.fqn]))
                continue
            part = self._chunk(item)
            for dim, (first, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                part = part.narrow(dim, first, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Return whether this may be the path of a checkpoint."""
        return isinstance(checkpoint_id, str | Path)

    def _name_of(self, value: Tensor) -> str | None:
        """Return the name of the storage that a stand-in is for; None for other tensors."""
        return self._split.get(value.untyped_storage()._cdata) if value.is_meta else None

    def _contents(self) -> dict[str, Any]:
        self._split = {}
        path = links.target(self._path)
        if not shards.is_sharded(path):
            contents = load(path, verify=False)
        else:
            try:
                self._shards = Shards(shards.files(path))
                contents = self._shards.contents(stand_in=self._stand_in)
            except CheckpointError as error:
                raise CheckpointError(f"{path} cannot be used: {error}.") from error
        contents.get(forms.OURS, {}).pop(forms.TABLE, None)  # values stay plain, as other programs read them
        return contents

    def _stand_in(self, name: str) -> torch.UntypedStorage:
        assert self._shards is not None
        storage = torch.UntypedStorage(self._shards.num_bytes[name], device="meta")
        self._split[storage._cdata] = name
        return storage

    def _described(self, value: Any) -> TensorStorageMetadata | BytesStorageMetadata:
        if not isinstance(value, Tensor):
            return BytesStorageMetadata()
        properties = TensorProperties(dtype=value.dtype)
        whole = ChunkStorageMetadata(torch.Size([0] * value.dim()), value.shape)
        chunks = [ChunkStorageMetadata(block.offsets, block.sizes) for block in self._blocks(value)]
        return TensorStorageMetadata(properties, value.shape, chunks or [whole])

    def _blocks(self, value: Tensor) -> list[_Block]:
        """Return the blocks of a tensor that shards have; none if it is read as a whole."""
        name = self._name_of(value)
        if self._shards is None or name is None or not value.is_contiguous() or not value.dim():
            return []
        if value.nbytes != self._shards.num_bytes[name]:
            return []
        found = [_block(value, part) for part in self._shards.parts[name]]
        return [block for block in found if block is not None] if None not in found else []

    def _chunk(self, item: ReadItem) -> Tensor:
        value: Tensor = self._values[item.storage_index.fqn]
        name = self._name_of(value)
        if self._shards is None or name is None:
            return value
        offset = item.storage_index.offset
        for block in self._blocks(value):
            if offset is not None and offset == block.offsets:
                is_aligned = block.data.storage_offset() % value.element_size() == 0
                data = block.data if is_aligned else block.data.clone()
                return data.view(value.dtype).view(block.sizes)
        joined = self._shards.storage(name)
        return torch.empty(0, dtype=value.dtype).set_(joined, value.storage_offset(), value.shape, value.stride())


def _block(value: Tensor, part: Part) -> _Block | None:
    """Return which block of a tensor a part is; None if it is not one."""
    row_bytes, rest = prod(value.shape[1:]) * value.element_size(), value.dim() - 1
    if (tile := part.tile) is None:
        if part.first % row_bytes:
            return None
        sizes = torch.Size([part.data.numel() // row_bytes, *value.shape[1:]])
        return _Block(torch.Size([part.first // row_bytes, *[0] * rest]), sizes, part.data)
    if tile.row_bytes != row_bytes:  # it is divided behind the second dimension
        return None
    column_bytes = row_bytes // value.shape[1]
    offsets = torch.Size([tile.rows[0], tile.columns[0] // column_bytes, *[0] * (rest - 1)])
    return _Block(offsets, torch.Size([tile.num_rows, tile.run_bytes // column_bytes, *value.shape[2:]]), part.data)


def _as_bytes(value: Any) -> io.BytesIO:
    """A plain value in the form that planners take; it does not come from a file as a pickle, but is made here."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file
