"""Checkpoints that are directories of shards, as the ranks of a run write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.support.values import draft, file_of
from torch import Tensor

from cairn.store import disk, manifest, names
from cairn.store.catalog import describe
from cairn.store.file_format import sealed
from cairn.store.shards import read
from cairn.types import Draft, Saved
from cairn.writing.encode import Encoded
from cairn.writing.load import load
from cairn.writing.sharded.deal import Dealer, replicated
from cairn.writing.sharded.shard import ShardEncoder, ShardId

POSITION = {"epoch": 0, "batch": 3, "total_batches": 3, "step": 3, "samples": 24}


def bytes_of(encoded: Encoded | Any) -> bytes:
    """The bytes of a file, as they are on the disk."""
    return b"".join(sealed(file_of(encoded), 2**22))


def with_ranks(whole: Mapping[str, Any], states: Sequence[Any]) -> dict[str, Any]:
    """The contents of a checkpoint with the states of ranks."""
    return {**whole, "cairn": {**whole["cairn"], "ranks": list(states)}}


def write_shards(
    folder: Path, whole: Mapping[str, Any], parameters: Iterable[Tensor], states: Sequence[Any], attempt: str = "a0"
) -> list[Path]:
    """Write the shards of a state as the ranks do under DDP: each has the parameters in memory of its own.

    Args:
        folder: The directory.
        whole: The contents without the states of ranks.
        parameters: Parameters among them.
        states: States of the ranks.
        attempt: Name of the save.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, world_size, parameters = [], len(states), list(parameters)
    for rank, state in enumerate(states):
        mine = replicated(whole, parameters)
        if rank:
            mine = dict(zip(mine, _copies(mine.values()), strict=True))
        deal = Dealer(rank, world_size).deal(mine)
        shard = ShardId(rank, world_size, "toy", attempt, POSITION)
        encoded = ShardEncoder().encode(with_ranks(whole, states[:1]) if rank == 0 else state, deal, shard)
        path = folder / names.shard_name(rank)
        path.write_bytes(bytes_of(encoded))
        paths.append(path)
    return paths


def commit_shards(
    directory: Path, number: int = 0, score: float | None = None, world_size: int = 3, **facts: Any
) -> Saved:
    """Write a small checkpoint of several ranks, and its manifest.

    Args:
        directory: The checkpoint directory.
        number: Which one of the run; its weights have this value.
        score: Its score.
        world_size: Number of ranks.
        **facts: As for `draft`.
    """
    coming = draft(number, score, **facts)
    weight = torch.full((300, 4), float(number))
    whole = {"state_dict": {"weight": weight, "mean": torch.ones(2)}, "number": number, "cairn": {"run": coming.run}}
    write_shards(directory / coming.name, whole, [weight], [{"n": rank} for rank in range(world_size)])
    return _write_manifest(directory, coming, created="2026-01-01")


def split(directory: Path, name: str) -> Saved:
    """Replace a checkpoint of a single file by the directory of shards that its ranks would have written."""
    saved, whole = describe(directory / name), load(directory / name)
    states = whole["cairn"]["ranks"]
    disk.remove(directory / name)
    write_shards(directory / name, whole, whole["state_dict"].values(), states)
    return _write_manifest(directory, saved, created=saved.created)


def _write_manifest(directory: Path, coming: Draft, **facts: Any) -> Saved:
    shards = read(directory / coming.name)
    num_bytes = sum(item.num_bytes for item in shards)
    saved = Saved.of(coming, num_bytes=num_bytes, digest=manifest.digest_of(shards), shards=shards, **facts)
    text = manifest.dump(saved, {"world_size": len(shards)})
    (directory / names.manifest_name(saved.name)).write_text(text)
    return saved


def _copies(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Copies of tensors, those of one storage in one storage again."""
    storages: dict[int, Any] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storage = storages.setdefault(storage.data_ptr(), storage.clone())
        yield torch.empty(0, dtype=tensor.dtype).set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
