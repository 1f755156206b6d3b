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
from cairn.store import disk
from cairn.types import Saved, Shard

FORMAT = 3
_OF_FILES = 2
"""Format of the manifest of a single file, which earlier versions of Cairn read as well."""


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
    content = {"format": FORMAT if saved.shards else _OF_FILES, **fields, **derived, "provenance": dict(provenance)}
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
        del fields["format"], fields["provenance"], fields["bytes_per_s"]
        saved = records.read(Saved, fields)
        records.require_finite(saved, "elapsed_s", "stall_s", "write_s", "wait_s", "overhead")
        records.require_counts(saved, "number", "num_bytes", "skipped", "interval_batches")
        records.require_counts(saved.position, "epoch", "batch", "total_batches", "step", "samples")
        return saved


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


def digest_of(shards: Sequence[Shard]) -> str:
    """Return the digest of a sharded checkpoint: that of the list of its files."""
    listed = json.dumps([[item.name, item.num_bytes, item.digest] for item in shards])
    return f"sha256-shards:{hashlib.sha256(listed.encode()).hexdigest()}"


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(f"its manifest cannot be read ({error})") from error


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
