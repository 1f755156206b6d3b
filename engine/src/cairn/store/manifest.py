"""The manifest: JSON next to a checkpoint, written after it. A checkpoint without a manifest is not committed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from cairn import records
from cairn.errors import CorruptCheckpointError, NewerFormatError
from cairn.store import disk, names
from cairn.types import Saved, ShardFile

FORMAT = 3
_OF_ONE_FILE = 2
"""Format of the manifest of a single file, which earlier versions read, too."""
_OF_SHARDS = "shards-sha256:"
"""Prefix of the digest of a list of shards."""


def digest_of(shards: Sequence[ShardFile]) -> str:
    """Return the digest of a checkpoint that is a directory of shards.

    Args:
        shards: Its files, in the order of ranks.
    """
    listed = [[item.name, item.num_bytes, item.digest] for item in shards]
    return _OF_SHARDS + hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def dump(saved: Saved, provenance: Mapping[str, Any]) -> str:
    """Return the text of a manifest.

    Args:
        saved: The checkpoint.
        provenance: Where it comes from: world size, seed, git commit, versions. Written, but not read back.

    Returns:
        JSON with a checksum of its own content.
    """
    fields = {**asdict(saved), "metrics": dict(saved.metrics)}
    derived = {"bytes_per_s": round(saved.num_bytes / saved.write_s) if saved.write_s else None}
    if not saved.shards:
        del fields["shards"]
    version = FORMAT if saved.shards else _OF_ONE_FILE
    content = {"format": version, **fields, **derived, "provenance": dict(provenance)}
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def load(text: str | bytes) -> Saved:
    """Read a manifest.

    Args:
        text: The content of the file.

    Returns:
        The checkpoint that it describes.

    Raises:
        CorruptCheckpointError: It is not a manifest, or it was changed.
        NewerFormatError: A later version of Cairn wrote it.
    """
    with _readable():
        fields = parse(text)
        fields.pop("checksum", None)
        if fields["format"] == 1:
            fields["digest"] = f"{disk.PLAIN}{fields.pop('sha256')}"
        has_shards = fields["format"] > _OF_ONE_FILE
        del fields["format"], fields["provenance"], fields["bytes_per_s"]
        saved = records.read(Saved, fields)
        records.require_finite(saved, "elapsed_s", "stall_s", "write_s", "wait_s", "overhead")
        records.require_counts(saved, "number", "num_bytes", "skipped", "interval_batches")
        records.require_counts(saved.position, "epoch", "batch", "total_batches", "step", "samples")
        if has_shards != bool(saved.shards):
            raise ValueError("its format does not fit its shards")
        _check_shards(saved)
        return saved


def _check_shards(saved: Saved) -> None:
    """Check that the list of shards is complete.

    Raises:
        ValueError: It is not.
    """
    if not saved.shards:
        return
    if [item.name for item in saved.shards] != [names.shard_name(rank) for rank in range(len(saved.shards))]:
        raise ValueError("it does not list a shard of each rank")
    for item in saved.shards:
        records.require_counts(item, "num_bytes")
    if saved.num_bytes != sum(item.num_bytes for item in saved.shards) or saved.digest != digest_of(saved.shards):
        raise ValueError("its list of shards does not fit its size or its digest")


def parse(text: str | bytes) -> dict[str, Any]:
    """Return all fields of a manifest, also those that only people read, as they are in the file.

    Args:
        text: The content of the file.

    Raises:
        CorruptCheckpointError: It is not a manifest, or it was changed.
        NewerFormatError: A later version of Cairn wrote it.
    """
    with _readable():
        fields: dict[str, Any] = records.parse(text)
        version = fields["format"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format is {version!r:.40}")
        if version > FORMAT:
            raise NewerFormatError(
                f"its manifest has format {version}, and this version of Cairn reads up to {FORMAT}: update Cairn"
            )
        content = dict(fields)
        checksum = content.pop("checksum", None)  # the first manifests had none
        if checksum is not None and checksum != _checksum(content):
            raise CorruptCheckpointError("its manifest was changed after it was written: its checksum differs")
        return fields


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(f"its manifest cannot be read ({error})") from error


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
