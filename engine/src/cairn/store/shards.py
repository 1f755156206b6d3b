"""A checkpoint that is a directory: one file per rank, which its manifest lists.

epoch_000_batch_000150.ckpt/
    rank_00000.ckpt  rank_00001.ckpt      a shard each, in the layout of a single file
epoch_000_batch_000150.json               names both, with their sizes and digests
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cairn import opening
from cairn.errors import CorruptCheckpointError
from cairn.store import file_format, manifest, names
from cairn.types import Saved, ShardFile


def is_sharded(path: Path) -> bool:
    """Whether a path is a directory of shards, or a link to one.

    Args:
        path: Any path. A directory with the name of a checkpoint counts although its shards may be lost: what reads it
            names the one that is missing.
    """
    if not path.is_dir():
        return False
    return names.parse_name(path.name) is not None or os.path.lexists(path / names.shard_name(0))


def files(path: Path) -> list[Path]:
    """Return the shards in a directory, in the order of ranks.

    Args:
        path: The directory.

    Raises:
        CorruptCheckpointError: It cannot be read, or it does not hold a shard of each rank.
    """
    try:
        found = sorted(rank for name in os.listdir(path) if (rank := names.shard_rank(name)) is not None)
    except OSError as error:
        raise CorruptCheckpointError(f"it cannot be read ({error.strerror or error})") from error
    if not found:
        raise CorruptCheckpointError("it is a directory without shards")
    for rank, there in enumerate(found):
        if there != rank:
            raise CorruptCheckpointError(f"its shard {names.shard_name(rank)} is missing")
    return [path / names.shard_name(rank) for rank in found]


def check_sizes(path: Path, saved: Saved) -> None:
    """Compare the sizes of the shards with the manifest.

    Args:
        path: The directory.
        saved: What its manifest says.

    Raises:
        CorruptCheckpointError: A shard is missing, or has another size; the message names it.
    """
    if not path.is_dir():
        raise CorruptCheckpointError(
            f"it is a single file, and its manifest lists {len(saved.shards)} shards"
            if path.exists()
            else "its directory does not exist"
        )
    for item in saved.shards:
        with _named(item.name):
            size = opening.check(path / item.name)
        if size != item.num_bytes:
            raise CorruptCheckpointError(
                f"its shard {item.name} has {size} bytes, and its manifest says {item.num_bytes}"
            )


def verify(path: Path, saved: Saved) -> None:
    """Compare the bytes of all shards with the manifest.

    Args:
        path: The directory.
        saved: What its manifest says.

    Raises:
        CorruptCheckpointError: They differ, or cannot be read; the message names each damaged shard.
    """
    refuse(damage(path, saved.shards))


def damage(path: Path, items: Sequence[ShardFile]) -> dict[str, str]:
    """Read shards, and compare them with what a manifest says of them.

    Args:
        path: The directory.
        items: The shards.

    Returns:
        A sentence for each damaged one, by its name.
    """
    return {item.name: why for item in items if (why := _damage(path, item))}


def refuse(damaged: Mapping[str, str]) -> None:
    """Refuse a checkpoint whose shards are damaged.

    Args:
        damaged: What `damage` has found in all of them.

    Raises:
        CorruptCheckpointError: There are any; the message names each.
    """
    if damaged:
        raise CorruptCheckpointError("; ".join(damaged[name] for name in sorted(damaged)))


def _damage(path: Path, item: ShardFile) -> str:
    try:
        with _named(item.name):
            found = file_format.read(path / item.name)
    except CorruptCheckpointError as error:
        text = str(error)
        return text if item.name in text else f"its shard {item.name} is damaged: {text}"
    differs = f"its shard {item.name} is not the one that its manifest lists: its checksum differs"
    return differs if found != item.digest else ""


def read(path: Path) -> tuple[ShardFile, ...]:
    """Read all shards of a directory, and compare each record with the checksum inside its file.

    Args:
        path: The directory.

    Returns:
        The shards as a manifest would list them.

    Raises:
        CorruptCheckpointError: One is missing, damaged, or cannot be read.
    """
    found = []
    for file in files(path):
        try:
            with _named(file.name):
                found.append(ShardFile(file.name, opening.check(file), file_format.read(file)))
        except CorruptCheckpointError as error:
            text = str(error)
            raise CorruptCheckpointError(
                text if file.name in text else f"its shard {file.name} is damaged: {text}"
            ) from error
    return tuple(found)


def digest(path: Path) -> str:
    """Digest of a directory of shards, as a manifest has it.

    Args:
        path: The directory.

    Raises:
        CorruptCheckpointError: A shard is missing, damaged, or cannot be read.
    """
    return manifest.digest_of(read(path))


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptCheckpointError(f"its shard {name} is missing") from error
    except OSError as error:
        raise CorruptCheckpointError(f"its shard {name} cannot be read ({error.strerror or error})") from error
