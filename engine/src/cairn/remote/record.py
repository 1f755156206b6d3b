"""The record of a mirrored checkpoint: JSON, created after all that it names. A checkpoint without one does not exist.

It holds the manifest of the checkpoint as it is on the disk, and the run files that belong to it: configuration,
attempts, metrics. A file that only grows consists of several parts, so that its beginning is uploaded once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from cairn import records
from cairn.errors import CorruptCheckpointError, NewerFormatError
from cairn.records import RecordError
from cairn.remote import layout
from cairn.store import manifest
from cairn.types import Saved

FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Part:
    """An object that holds a run file, or a piece of one."""

    object: str
    """Its name below the address, see `layout.part_name`."""
    num_bytes: int


@dataclass(frozen=True)
class RunFile:
    """A file of the run, as it was when the checkpoint was mirrored, or later."""

    path: str
    """Path below the run directory, with slashes."""
    num_bytes: int
    digest: str
    """SHA-256 of the whole file, in hexadecimal digits."""
    parts: tuple[Part, ...]
    """Its pieces, in order; an empty file has none."""


@dataclass(frozen=True)
class Record:
    """What a mirror says about one checkpoint."""

    manifest: str
    """Text of the manifest, as it is on the disk."""
    saved: Saved
    """The checkpoint that the manifest describes."""
    files: tuple[RunFile, ...] = ()

    @property
    def stem(self) -> layout.Stem:
        """What the names of its objects begin with."""
        return layout.stem_of(self.saved)

    def sizes(self) -> dict[str, int]:
        """Size in bytes of each object that this record names."""
        data = {name: num_bytes for name, _, num_bytes in layout.data_of(self.saved)}
        return data | {part.object: part.num_bytes for file in self.files for part in file.parts}

    def objects(self) -> set[str]:
        """Names of all objects that this record needs, with its own."""
        return {self.stem.record, *self.sizes()}

    def is_behind(self, files: Sequence[RunFile]) -> bool:
        """Whether run files were changed since this record was made."""
        return bool(files) and {(item.path, item.digest) for item in files} != {
            (item.path, item.digest) for item in self.files
        }


@dataclass(frozen=True)
class _Stored:
    format: int
    manifest: str
    files: tuple[RunFile, ...]
    checksum: str


def dump(text: str, files: Sequence[RunFile]) -> bytes:
    """Return the contents of a record.

    Args:
        text: The manifest, as it is on the disk.
        files: The run files, already uploaded.
    """
    content = {"format": FORMAT, "manifest": text, "files": [asdict(item) for item in files]}
    return (json.dumps({**content, "checksum": _checksum(content)}, indent=1) + "\n").encode()


def load(data: bytes, stem: layout.Stem | None = None) -> Record:
    """Read a record.

    Args:
        data: The contents of the object.
        stem: What its name says; None: it is not compared.

    Raises:
        CorruptCheckpointError: It is not a record, it was changed, or it belongs to another name.
        NewerFormatError: A later version of Cairn wrote it.
    """
    try:
        fields = records.parse(data)
        version = fields["format"]
        if type(version) is int and version > FORMAT:
            raise NewerFormatError(f"its record has format {version}, and this version reads {FORMAT}: update Cairn")
        stored = records.read(_Stored, fields)
        if fields.pop("checksum") != _checksum(fields):
            raise RecordError("its checksum differs")
        for item in stored.files:
            _check(item)
    except (RecordError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(f"its record in the mirror cannot be read ({error})") from error
    found = Record(stored.manifest, manifest.load(stored.manifest), stored.files)
    if stem is not None and found.stem != stem:
        raise CorruptCheckpointError(f"its record in the mirror belongs to {found.stem.data}")
    return found


def _check(item: RunFile) -> None:
    """Check what decides where bytes are written: a damaged or foreign record must not lead to another directory."""
    path = PurePosixPath(item.path)
    if path.is_absolute() or not path.parts or {"..", ""} & {*item.path.split("/")} or "\0" in item.path:
        raise RecordError(f"a run file has the path {item.path!a:.60}")
    records.require_counts(item, "num_bytes")
    for part in item.parts:
        records.require_counts(part, "num_bytes")
        if not layout.is_part(part.object):
            raise RecordError(f"a run file names the object {part.object!a:.60}")
    if not _SHA256.fullmatch(item.digest) or sum(part.num_bytes for part in item.parts) != item.num_bytes:
        raise RecordError(f"the parts of {item.path!a:.60} do not fit its size or digest")


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
