"""Mirrors for tests: small checkpoints in a store, with the run files that a run would upload."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.shards import commit_shards
from tests.support.values import commit

from cairn.remote import address, layout, record
from cairn.remote.objects import Objects
from cairn.remote.record import Part, RunFile
from cairn.store import names
from cairn.types import Saved

FILES = {"run.json": b'{"id": "toy", "task_name": "t"}', "csv/metrics.csv": b"step,loss\n1,0.5\n"}


def objects_at(scheme: str, tmp_path: Path, run: str = "logs/a=1,b=0.5") -> Objects:
    """Objects at an address of this test's own."""
    where = (
        f"{scheme}://{tmp_path}/store" if scheme == "file" else f"{scheme}://{tmp_path.as_posix().replace('/', '-')}"
    )
    return Objects(address.parse(f"{where}/{run}"))


def mirror_checkpoint(
    objects: Objects,
    tmp_path: Path,
    number: int,
    files: Mapping[str, bytes] = FILES,
    *,
    sharded: bool = False,
    **facts: Any,
) -> Saved:
    """Commit a small checkpoint in `tmp_path/local`, and mirror it with run files of two parts each."""
    directory = tmp_path / "local"
    made = commit_shards(directory, number, **facts) if sharded else commit(directory, number, **facts)
    mirror_files(objects, directory, made, files)
    return made


def mirror_files(objects: Objects, directory: Path, saved: Saved, files: Mapping[str, bytes]) -> None:
    """Mirror a checkpoint of a directory, with run files of two parts each."""
    for name, path, _ in layout.data_of(saved):
        objects.put_file(name, directory / path)
    text = (directory / names.manifest_name(saved.name)).read_text()
    kept = [put_run_file(objects, path, data) for path, data in files.items()]
    assert objects.create(layout.stem_of(saved).record, record.dump(text, kept))


def put_run_file(objects: Objects, path: str, data: bytes) -> RunFile:
    """Upload a run file in two parts."""
    parts = []
    for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        name = layout.part_name(hashlib.sha256(piece).hexdigest())
        objects.put(name, piece)
        parts.append(Part(name, len(piece)))
    return RunFile(path, len(data), hashlib.sha256(data).hexdigest(), tuple(parts))


def damage(objects: Objects, name: str) -> None:
    """Flip a bit in the middle of an object; its size stays the same."""
    data = bytearray(objects.get(name))
    data[len(data) // 2] ^= 1
    objects.put(name, bytes(data))
