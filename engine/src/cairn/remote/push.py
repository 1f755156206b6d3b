"""Copies a whole run into a mirror: what a training with a mirror uploads one checkpoint at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError, NewerFormatError, ResumeError
from cairn.policy import keep
from cairn.remote import layout, listed, origin, owner, record
from cairn.remote.address import Address
from cairn.remote.copied import Copied
from cairn.remote.listed import Listed
from cairn.remote.objects import Objects
from cairn.remote.progress_bar import Bar
from cairn.remote.record import Record, RunFile
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
    records, bad = listed.read_records(objects, found)
    whole = {item.stem for item in records if not found.missing(item)}
    whole |= {stem for stem, why in bad.items() if isinstance(why, NewerFormatError)}
    present = [item for item in saved if layout.stem_of(item) in whole]
    missing = [item for item in saved if layout.stem_of(item) not in whole]
    newest = records[-1] if records and not found.missing(records[-1]) else None
    files = _upload_files(objects, found, source, newest)
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
    if newest is not None and newest.saved == saved[-1]:
        _renew(objects, newest, files)
    # The mirror may hold more than this directory.
    there = {item.stem: item.saved for item in records} | {layout.stem_of(item): item for item in uploaded}
    if there:
        ordered = sorted(there.values(), key=lambda item: item.position)
        _point(objects, names.LAST, ordered[-1])
        _point(objects, names.BEST, keep.best_of(ordered, source.mode) if source.mode else None)
    return Copied(uploaded, present, skipped)


def _renew(objects: Objects, newest: Record, files: Sequence[RunFile]) -> None:
    """Let the newest record name the run files as they are now, with the outcome of the run, for example."""
    before, now = ({(item.path, item.digest) for item in some} for some in (newest.files, files))
    if now and now != before:
        objects.put(newest.stem.record, record.dump(newest.manifest, files))


def _lacking(found: Listed, saved: Saved) -> list[tuple[str, str, int]]:
    """Return the data objects of a checkpoint that the mirror lacks."""
    return [item for item in layout.data_of(saved) if found.sizes.get(item[0]) != item[2]]


def _upload_files(objects: Objects, found: Listed, source: Source, newest: Record | None) -> list[RunFile]:
    """Upload the run files; they are as new as the newest checkpoint, or newer, as a record needs them.

    Args:
        objects: The mirror.
        found: Its listing.
        source: The run.
        newest: The newest record, whose parts are used again; None: there is none with all of its parts.
    """

    def put(name: str, data: bytes) -> None:
        if found.sizes.get(name) != len(data):
            objects.put(name, data)

    files = RunFiles(source.run, source.checkpoints, ErrorsOnce(f"Upload to {objects.address}"))
    files.begin(newest.files if newest is not None else ())
    return files.upload(put)


def _upload(objects: Objects, found: Listed, directory: Path, saved: Saved, files: Sequence[RunFile], bar: Bar) -> None:
    for name, path, _ in _lacking(found, saved):
        objects.put_file(name, directory / path, partial(_advance, bar, [0]))
    text = opening.read_text(directory / names.manifest_name(saved.name))
    stem, contents = layout.stem_of(saved), record.dump(text, files)
    if stem in found.stems:  # it is damaged, or names files that are missing; its name says that it is about this one
        objects.put(stem.record, contents)
    else:
        objects.create(stem.record, contents)


def _advance(bar: Bar, before: list[int], num_bytes: int) -> None:
    bar.advance(num_bytes - before[0])
    before[0] = num_bytes


def _point(objects: Objects, link: str, saved: Saved | None) -> None:
    if saved is not None:
        objects.put(layout.POINTERS[link], layout.pointer(layout.stem_of(saved)))
