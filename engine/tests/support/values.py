"""Positions, moments and checkpoints for tests; a test gives only the facts that it is about."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cairn.store import manifest
from cairn.store.commit import CommitPlan, Committed, write
from cairn.store.history import History
from cairn.store.names import checkpoint_name, manifest_name
from cairn.types import Draft, Moment, Position, Saved
from cairn.writing.buffers import Buffer
from cairn.writing.copying import Copier
from cairn.writing.encode import Encoded, encode


def at(batch: int = 0, *, epoch: int = 0, total: int | None = None, step: int = 0, samples: int = 0) -> Position:
    """The position after `batch` batches of `epoch`, which are `total` batches of the run."""
    return Position(epoch, batch, batch if total is None else total, step, samples)


def moment(position: Position | None = None, previous: Position | None = None, **facts: Any) -> Moment:
    """A boundary at which nothing has happened except `facts`."""
    plain = {"batches_per_epoch": 8, "elapsed_s": 0.0, "since_save_s": 0.0, "score": None, "ends": False, "stop": None}
    return Moment(position or at(), previous or at(), **{**plain, **facts})


def saved(number: int = 0, score: float | None = None, **facts: Any) -> Saved:
    """The `number`-th checkpoint of a run that saves after every batch."""
    position = facts.pop("position", at(number + 1))
    plain = {"name": checkpoint_name(position), "reasons": ("interval",), "run": "toy"}
    return Saved(position=position, number=number, score=score, **{**plain, **facts})


def draft(number: int = 0, score: float | None = None, **facts: Any) -> Draft:
    """The same checkpoint before it is committed."""
    position = facts.pop("position", at(number + 1))
    plain = {"name": checkpoint_name(position), "reasons": ("interval",), "run": "toy"}
    return Draft(position=position, number=number, score=score, **{**plain, **facts})


def history(*scores: float | None) -> list[Saved]:
    """One checkpoint per score, oldest first."""
    return [saved(number, score) for number, score in enumerate(scores)]


def commit(directory: Path, number: int = 0, score: float | None = None, **facts: Any) -> Saved:
    """Write a small checkpoint as a run writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    provenance = facts.pop("provenance", {"world_size": 1})
    return write(CommitPlan(directory, draft(number, score, **facts), provenance), small_file(number)).saved


def save(own: History, number: int = 0, score: float | None = None, **facts: Any) -> Committed:
    """Write a small checkpoint and record it in the history of its run, as a run does.

    Raises:
        SaveError: It could not be written.
    """
    own.directory.mkdir(parents=True, exist_ok=True)
    coming, plan, result = draft(number, score, num_bytes=len(small_file(number)), **facts), None, None
    own.add_pending(coming)
    try:
        plan = own.plan_commit(coming, {"world_size": 1})
        result = write(plan, small_file(number))
    finally:
        own.resolve_pending(coming, plan, result)
    return result


def small_file(number: int) -> memoryview:
    """The bytes of a checkpoint with one small tensor."""
    return file_of({"state_dict": {"weight": torch.full((3,), float(number))}, "number": number})


def file_of(contents: Any) -> memoryview:
    """The bytes of a state's checkpoint, as a writer gets them; the state may be encoded."""
    buffer = Buffer()
    Copier().copy(contents if isinstance(contents, Encoded) else encode(contents), buffer)
    data = bytearray(buffer.view[: buffer.num_bytes])
    buffer.close()
    return memoryview(data)


def reloaded(contents: Any) -> Any:
    """The state that is read back from its checkpoint."""
    return torch.load(io.BytesIO(file_of(contents)), weights_only=True)


def truncate(directory: Path, name: str) -> None:
    """Remove the last byte of the file."""
    path = directory / name
    path.write_bytes(path.read_bytes()[:-1])


def flip_byte(directory: Path, name: str) -> None:
    """Flip a bit in the middle of the largest record; the size of the file stays the same."""
    path = directory / name
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        record = max(file.infolist(), key=lambda record: record.file_size)
    lengths = struct.unpack_from("<2H", data, record.header_offset + 26)
    data[record.header_offset + 30 + sum(lengths) + record.file_size // 2] ^= 1
    path.write_bytes(data)


def move_bytes(directory: Path, name: str) -> None:
    """Remove a few bytes in the middle, and append as many zeros."""
    path = directory / name
    data = path.read_bytes()
    middle = data.index(b"PK\3\4", len(data) // 2)
    path.write_bytes(data[: middle - 30] + data[middle:] + bytes(30))


def drop_manifest(directory: Path, name: str) -> None:
    """Act as if the writer died between the file and its manifest."""
    (directory / manifest_name(name)).unlink()


def garble_manifest(directory: Path, name: str) -> None:
    """Replace the manifest by bytes that are neither JSON nor text."""
    (directory / manifest_name(name)).write_bytes(b"\xff\x00{")


def swap_manifest(directory: Path, name: str) -> None:
    """Replace the manifest by that of another checkpoint."""
    path = directory / manifest_name(name)
    path.write_text(manifest.dump(replace(manifest.load(path.read_text()), name=checkpoint_name(at(99))), {}))


def edit_manifest(directory: Path, name: str) -> None:
    """Change a number in the manifest."""
    path = directory / manifest_name(name)
    path.write_text(path.read_text().replace('"number": ', '"number": 1'))


def age_manifest(directory: Path, name: str) -> None:
    """Turn the manifest into one of a later version."""
    path = directory / manifest_name(name)
    path.write_text(re.sub(r'"format": [0-9]+', f'"format": {manifest.FORMAT + 1}', path.read_text(), count=1))


DAMAGES: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "no manifest": (drop_manifest, "no manifest"),
    "truncated": (truncate, "bytes"),
    "one flipped byte": (flip_byte, "checksum"),
    "bytes that moved": (move_bytes, "is not where the central directory says"),
    "manifest of another file": (swap_manifest, "its manifest belongs to"),
    "garbage manifest": (garble_manifest, "manifest cannot be read"),
    "edited manifest": (edit_manifest, "its manifest was changed"),
}
"""Ways to damage a checkpoint, and a part of the reason why it is rejected."""


def names_of(items: Sequence[Saved]) -> list[str]:
    """The file names."""
    return [item.name for item in items]
