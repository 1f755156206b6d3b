"""Writes a checkpoint that is a directory of shards as the single file that an unsharded save would have written."""

from __future__ import annotations

import mmap
import os
from collections import deque
from pathlib import Path

import torch

from cairn import opening
from cairn.errors import CheckpointError, SaveError
from cairn.store import disk, file_format, links, shards
from cairn.store.file_format import Layout
from cairn.store.write_error import why_not_written
from cairn.writing.encode import Encoded
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.load import load
from cairn.writing.sharded.cuts import Range
from cairn.writing.sharded.deal import bytes_of


def export(source: Path, to: Path) -> int:
    """Write the single file; it appears under its name when it is complete and on the disk.

    Args:
        source: A directory of shards, or a link to one. It is verified first.
        to: The new file.

    Returns:
        Its size, in bytes.

    Raises:
        CheckpointError: The source is missing, corrupt, or a single file already; or there is a file of that name.
        SaveError: The file could not be written.
    """
    if os.path.lexists(to):
        raise CheckpointError(f"{to} exists already: name a new file.")
    if source.exists() and not shards.is_sharded(links.target(source)) and not source.is_dir():
        raise CheckpointError(f"{source} is a single file already: copy it.")
    encoded = FormEncoder().encode(load(source))
    layout = Layout(encoded.sizes)
    num_bytes = layout.num_bytes(len(encoded.pickle))
    try:
        with disk.renamed_at_end(to) as temp:
            _write(temp, encoded, layout, num_bytes)
    except OSError as error:
        raise SaveError(why_not_written(to, error, num_bytes)) from error
    return num_bytes


def _write(path: Path, encoded: Encoded, layout: Layout, num_bytes: int) -> None:
    """Fill the file through a mapping: the state may be larger than the memory that is free."""
    handle = opening.make_new(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, num_bytes)  # a full disk would end this process while it writes to the mapping
        with mmap.mmap(handle, num_bytes) as mapped, memoryview(mapped) as view:
            layout.write_frame(view)
            layout.write_tail(view, encoded.pickle)
            for storage, at, size in zip(encoded.storages, layout.offsets, encoded.sizes, strict=True):
                if size:
                    target = torch.frombuffer(view, dtype=torch.uint8, count=size, offset=at)
                    target.copy_(bytes_of(storage, Range(0, 0, size)))
                    del target  # the mapping cannot be closed before
            deque(file_format.sealed(view, disk.CHUNK_BYTES), maxlen=0)
            mapped.flush()
        os.fsync(handle)
    finally:
        os.close(handle)
