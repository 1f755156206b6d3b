"""Copies a whole run into a mirror: what a training with a mirror uploads one checkpoint at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError, ResumeError
from cairn.policy import keep
from cairn.remote import layout, listed, origin, owner, record
from cairn.remote.address import Address
from cairn.remote.copied import Copied
from cairn.remote.listed import Listed
from cairn.remote.objects import Objects
from cairn.remote.progress_bar import Bar
from cairn.remote.record import RunFile
from cairn.remote.run_files import RunFiles
from cairn.store import names
from cairn.store.catalog import Catalog, verify
from cairn.types import Mode, Saved
from cairn.uploads.once import ErrorsOnce


@dataclass(frozen=True)
class Source:
    """A run on this machine."""

    checkpoints: Path
    run: Path | None
    """Its run directory; None: only checkpoints are copied."""
    id: str
    mode: Mode | None = None
    """Whether a lower or a higher score is better; None: no checkpoint is the best."""


def push(source: Source, where: Address) -> Copied:
    """Upload what a mirror lacks of a run. Nothing is deleted there.

    Args:
        source: The run. No process may train in it.
        where: Address of the run.

    Raises:
        ConfigError: The mirror belongs to another run, or the store refuses access.
        ResumeError: The store cannot be used, or there is no checkpoint.
    """
    saved, rejected = Catalog(source.checkpoints).all()
    if not saved:
        raise ResumeError(f"{source.checkpoints} holds no checkpoint that could be uploaded.")
    skipped = [(item.path.name, item.why) for item in rejected]
    return origin.asked(where, lambda objects: _push(source, objects, saved, skipped))


def _push(source: Source, objects: Objects, saved: Sequence[Saved], skipped: list[tuple[str, str]]) -> Copied:
    owner.claim(objects, source.id, source.run.name if source.run is not None else "")
    found = listed.look(objects)
    present, missing, stems = list[Saved](), list[Saved](), set(found.stems)
    for item in saved:
        is_there = layout.stem_of(item) in stems and not _lacking(found, item)
        (present if is_there else missing).append(item)
    files = _upload_files(objects, found, source) if missing else []
    uploaded = []
    with Bar(f"Uploading to {objects.address}", sum(item.num_bytes for item in missing)) as bar:
        for item in missing:
            try:
                verify(source.checkpoints / item.name, item)
            except CheckpointError as error:
                skipped.append((item.name, str(error)))
                continue
            _upload(objects, found, source.checkpoints, item, files, bar)
            uploaded.append(item)
    there = [*present, *uploaded]
    if there:
        best = keep.best_of(sorted(there, key=lambda item: item.position), source.mode) if source.mode else None
        _point(objects, names.LAST, max(there, key=lambda item: item.position))
        _point(objects, names.BEST, best)
    return Copied(uploaded, present, skipped)


def _lacking(found: Listed, saved: Saved) -> list[tuple[str, str, int]]:
    """Return the data objects of a checkpoint that the mirror lacks."""
    return [item for item in layout.data_of(saved) if found.sizes.get(item[0]) != item[2]]


def _upload_files(objects: Objects, found: Listed, source: Source) -> list[RunFile]:
    """Upload the run files; they are as new as the newest checkpoint, or newer, as a record needs them."""

    def put(name: str, data: bytes) -> None:
        if found.sizes.get(name) != len(data):
            objects.put(name, data)

    return RunFiles(source.run, source.checkpoints, ErrorsOnce(f"Upload to {objects.address}")).upload(put)


def _upload(objects: Objects, found: Listed, directory: Path, saved: Saved, files: Sequence[RunFile], bar: Bar) -> None:
    for name, path, _ in _lacking(found, saved):
        objects.put_file(name, directory / path, partial(_advance, bar, [0]))
    text = opening.read_text(directory / names.manifest_name(saved.name))
    # An existing record with these digests is one of the same checkpoint.
    objects.create(layout.stem_of(saved).record, record.dump(text, files))


def _advance(bar: Bar, before: list[int], num_bytes: int) -> None:
    bar.advance(num_bytes - before[0])
    before[0] = num_bytes


def _point(objects: Objects, link: str, saved: Saved | None) -> None:
    if saved is not None:
        objects.put(layout.POINTERS[link], layout.pointer(layout.stem_of(saved)))
