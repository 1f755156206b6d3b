"""Uploads the data of a checkpoint: one file, or shards, of which other ranks upload theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cairn.remote import layout
from cairn.remote.mirrored import Mirrored
from cairn.remote.objects import Objects
from cairn.remote.ranks import Shard, ShardUploads
from cairn.types import Saved


def upload(
    objects: Objects,
    mirrored: Mirrored,
    shared: ShardUploads,
    saved: Saved,
    path: Path,
    beat: Callable[[int], None],
    wait: Callable[[float], None],
) -> None:
    """Upload what the mirror lacks of a checkpoint; an interrupted upload may have left a part of it there.

    Args:
        objects: The objects of the mirror.
        mirrored: What it holds.
        shared: Shares the upload with other ranks.
        saved: The checkpoint.
        path: Its file, or its directory of shards.
        beat: Called repeatedly with the number of bytes sent from here; what it raises ends the upload.
        wait: Waits for some seconds; likewise.

    Raises:
        RemoteError: It could not be uploaded.
        OSError: It cannot be read.
    """
    stem, before = layout.stem_of(saved), 0
    folder = shared.checkpoints
    sizes = {name: num_bytes for name, _, num_bytes in layout.data_of(saved)}
    path_of = {name: path.parent / local for name, local, _ in layout.data_of(saved)}
    shards = [Shard(name, local.relative_to(folder).as_posix()) for name, local in path_of.items()]

    def put(shard: Shard) -> None:
        nonlocal before
        last = before

        def count(num_bytes: int) -> None:
            nonlocal last
            last = before + num_bytes
            beat(last)

        objects.put_file(shard.object, folder / shard.file, count)
        mirrored.uploaded(shard.object, sizes[shard.object])
        before = last

    lacking = [shard for shard in shards if not mirrored.has(shard.object, sizes[shard.object])]
    if len(lacking) <= 1:
        for shard in lacking:
            put(shard)
        return
    shared.upload(stem.text, lacking, put, wait)
    there = dict(objects.list(stem.data))
    for shard in lacking:
        if there.get(shard.object) == sizes[shard.object]:
            mirrored.uploaded(shard.object, sizes[shard.object])
        else:
            put(shard)
