"""FIND: what is committed in a checkpoint directory, and whether a file is what its manifest says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cairn.checkpoint import layout, manifest
from cairn.checkpoint.errors import CheckpointError, CorruptCheckpointError, NewerFormatError
from cairn.checkpoint.types import Saved


@dataclass(frozen=True)
class Rejected:
    """A file that was not used, and why."""

    path: Path
    why: str
    newer: bool = False
    """A later Cairn wrote it: it may be whole, and must not be passed over."""

    @property
    def committed(self) -> bool:
        """Has it been whole once?"""
        return self.path.with_name(layout.manifest_name(self.path.name)).is_file()


class Catalog:
    """The checkpoints in one directory. The directory is the truth: nothing is remembered between two questions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def committed(self) -> list[Saved]:
        """Every checkpoint with a readable manifest and a file of the right size, oldest first."""
        return self._read()[0]

    def rejected(self) -> list[Rejected]:
        """Every checkpoint file that is not committed, oldest first, with the reason."""
        return self._read()[1]

    def newest_whole(self) -> tuple[Saved | None, list[Rejected]]:
        """The newest checkpoint whose bytes are those of its manifest, and every newer file that is not.

        A checkpoint that is verified and fails makes the one before it the newest.
        """
        good, rejected = self._read()
        for saved in reversed(good):
            try:
                verify(self.directory / saved.name, saved)
            except CorruptCheckpointError as error:
                rejected.append(Rejected(self.directory / saved.name, str(error)))
                continue
            here = (saved.position.epoch, saved.position.batch)
            return saved, [item for item in rejected if (layout.parse_name(item.path.name) or here) > here]
        return None, rejected

    def _read(self) -> tuple[list[Saved], list[Rejected]]:
        good, rejected = [], []
        names = (path.name for path in self.directory.glob("*.ckpt")) if self.directory.is_dir() else ()
        for name in sorted((name for name in names if layout.parse_name(name)), key=layout.parse_name):  # type: ignore[arg-type]
            try:
                good.append(describe(self.directory / name))
            except CheckpointError as error:
                rejected.append(Rejected(self.directory / name, str(error), isinstance(error, NewerFormatError)))
        return good, rejected


def describe(path: Path) -> Saved:
    """The manifest of a checkpoint file, checked against the file's size.

    Raises:
        CorruptCheckpointError: there is no manifest, or it does not fit.
    """
    proof = path.with_name(layout.manifest_name(path.name))
    if not proof.is_file():
        raise CorruptCheckpointError("it has no manifest: its save was never finished")
    saved = manifest.load(proof.read_bytes())
    if saved.name != path.name:
        raise CorruptCheckpointError(f"its manifest is that of {saved.name}")
    size = path.stat().st_size if path.is_file() else 0
    if size != saved.num_bytes:
        raise CorruptCheckpointError(f"it has {size} bytes, and its manifest says {saved.num_bytes}")
    return saved


def verify(path: Path, saved: Saved) -> None:
    """Compare the bytes of a file with the checksum of its manifest.

    Raises:
        CorruptCheckpointError: they differ.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != saved.sha256:
        raise CorruptCheckpointError(f"its checksum is {found[:12]}..., and its manifest says {saved.sha256[:12]}...")
