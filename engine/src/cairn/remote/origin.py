"""One checkpoint of a mirror, as a user names it: for a new run, for its weights, or for a model.

s3://bucket/prefix/RUN                                              the newest intact one
s3://bucket/prefix/RUN/checkpoints/last.ckpt                        the same
s3://bucket/prefix/RUN/checkpoints/best.ckpt                        the one that the run has marked as its best
s3://bucket/prefix/RUN/checkpoints/epoch_000_batch_000150.ckpt      this one
s3://.../checkpoints/epoch_000_batch_000150.0123456789ab.ckpt       this one, by the name of its object
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cairn import records
from cairn.errors import CheckpointError, ConfigError, MissingFileError, NewerFormatError, RemoteError, ResumeError
from cairn.records import RecordError
from cairn.remote import address, bounded, fetch, layout, listed, staged
from cairn.remote.address import Address
from cairn.remote.layout import Stem
from cairn.remote.listed import Listed
from cairn.remote.objects import Objects
from cairn.remote.progress_bar import Bar
from cairn.remote.record import Record
from cairn.store import disk, names

log = logging.getLogger(__name__)

_FOLDER = layout.CHECKPOINTS.rstrip("/")
_MOST_POINTER_BYTES = 2**16
_T = TypeVar("_T")


@dataclass(frozen=True)
class Named:
    """A run in a store, and one of its checkpoints."""

    run: Address
    checkpoint: str = names.LAST
    """Name of a checkpoint, with or without the digits of its digest; `last.ckpt` or `best.ckpt`."""

    @property
    def is_newest(self) -> bool:
        """Whether the newest intact one is meant, whichever that is."""
        return self.checkpoint == names.LAST


def parse(text: str) -> Named:
    """Read the address of a run or of one of its checkpoints.

    Raises:
        ConfigError: It is not an address.
    """
    found = address.parse(text)
    parts = found.prefix.split("/")
    if len(parts) >= 2 and parts[-2] == _FOLDER and parts[-1].endswith(".ckpt"):
        return Named(replace(found, prefix="/".join(parts[:-2])), parts[-1])
    if parts[-1] == _FOLDER:
        return Named(found.parent)
    return Named(found)


def fetched(text: str, folder: Path) -> Path:
    """Return a checkpoint of a mirror as a file, or a directory of shards; it is fetched once.

    Args:
        text: Address of a run or of one of its checkpoints.
        folder: Where fetched checkpoints are collected.

    Raises:
        ConfigError: It is not an address, or the store refuses access.
        ResumeError: The store cannot be used, or there is no room.
        MissingFileError: There is no such checkpoint.
        CheckpointError: It is damaged.
    """
    parse(text)
    own = folder / hashlib.sha256(text.encode()).hexdigest()[:8]
    if (there := _fetched(own)) is not None:
        return there
    disk.make_directory(own)
    with disk.locked(own):  # several processes of a node may fetch at once
        if (there := _fetched(own)) is not None:
            return there
        return fetch_one(text, own / "whole")


def _fetched(own: Path) -> Path | None:
    """Return what was fetched before; a kill may have left a checkpoint without its manifest."""
    there = (
        path for path in sorted(own.glob("whole/*.ckpt")) if path.with_name(names.manifest_name(path.name)).exists()
    )
    return next(there, None)


def fetch_one(text: str, folder: Path) -> Path:
    """Fetch a checkpoint of a mirror into a folder; see `fetched`."""
    wanted = parse(text)
    return asked(wanted.run, lambda objects: _fetch(objects, wanted, folder))


def asked(where: Address, function: Callable[[Objects], _T]) -> _T:
    """Call a function with the objects at an address, once the store has answered within a time limit.

    Args:
        where: Address of a run.
        function: What to do.

    Raises:
        ConfigError: The store refuses access.
        ResumeError: The store cannot be used.
    """
    try:
        objects = bounded.call(lambda: _opened(where), where, bounded.START_S)
        return bounded.call(lambda: function(objects), where)
    except RemoteError as error:
        if error.kind in ("no_bucket", "refused", "misused"):
            raise ConfigError(str(error)) from error
        raise ResumeError(str(error)) from error


def candidates(objects: Objects, wanted: Named, found: Listed) -> Iterator[Record]:
    """Yield the records that a name stands for: one, or for the newest all, from the newest to the oldest.

    Args:
        objects: The mirror.
        wanted: What the user named.
        found: Listing of the mirror.

    Raises:
        MissingFileError: There is none.
        CheckpointError: The record of a named one is damaged.
        RemoteError: The store cannot be used.
    """
    if not found.stems:
        raise MissingFileError(listed.nothing_at(objects, found))
    if wanted.is_newest:
        return fetch.newest_first(objects, found, lambda text: log.warning("Skipped in %s: %s.", objects.address, text))
    marked = best(objects) if wanted.checkpoint == names.BEST else None
    fitting = [marked] if marked in found.stems else _named(wanted.checkpoint, found)
    if not fitting:
        there = ", ".join(item.name for item in found.stems[-3:])
        raise MissingFileError(f"{objects.address} holds no {wanted.checkpoint}. The newest are: {there}.")
    try:
        made = [listed.read_record(objects, stem) for stem in fitting if stem is not None]
    except CheckpointError as error:
        raise type(error)(f"{wanted.checkpoint} of {objects.address} cannot be used: {error}.") from error
    return iter([max(made, key=lambda item: item.saved.created)])


def _opened(where: Address) -> Objects:
    objects = Objects(where)
    objects.check()
    return objects


def _fetch(objects: Objects, wanted: Named, folder: Path) -> Path:
    found = listed.look(objects)
    why = "no record can be read"
    for record in candidates(objects, wanted, found):
        name, missing = record.saved.name, found.missing_data(record)
        try:
            if missing:
                raise CheckpointError(f"{missing[0]} is missing, or has another size")
            with Bar(f"Downloading from {objects.address}", record.saved.num_bytes) as bar:
                return staged.stage(objects, record, folder, bar.advance).commit()
        except NewerFormatError:
            raise
        except CheckpointError as error:
            why = f"{name}: {error}"
            if wanted.is_newest:
                log.warning("Skipped in %s: %s.", objects.address, why)
    raise CheckpointError(f"{objects.address} cannot be used ({why}).")


def best(objects: Objects) -> Stem | None:
    """Return what the pointer to the best checkpoint says; None: there is none."""
    try:
        found = records.parse(objects.get(layout.BEST, _MOST_POINTER_BYTES))
        return Stem(str(found["name"]), layout.short(str(found["digest"])))
    except RemoteError as error:
        if error.kind != "missing":
            raise
    except (RecordError, KeyError, TypeError):
        pass
    return None


def _named(name: str, found: Listed) -> list[Stem]:
    """Return the checkpoints of this name, with or without digits."""
    return [stem for stem in found.stems if name in (stem.name, Path(stem.data).name)]
