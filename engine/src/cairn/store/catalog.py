"""FIND: what is committed in a checkpoint directory, and whether a file is what its manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cairn.errors import CheckpointError, CorruptCheckpointError, NewerFormatError
from cairn.store import disk, file_format, manifest, names
from cairn.types import Saved


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
        return self.path.with_name(names.manifest_name(self.path.name)).is_file()


class Catalog:
    """The checkpoints in one directory. The directory is the truth: nothing is remembered between two questions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def committed(self) -> list[Saved]:
        """Every checkpoint with a readable manifest and a file of the right size, oldest first."""
        return self.all()[0]

    def rejected(self) -> list[Rejected]:
        """Every checkpoint file that is not committed, oldest first, with the reason."""
        return self.all()[1]

    def leftovers(self) -> list[Path]:
        """Files that are no checkpoints any more, or not yet: half written ones, and manifests of deleted ones."""
        paths = sorted(self.directory.iterdir()) if self.directory.is_dir() else []
        there = {path.name for path in paths}
        return [
            path
            for path in paths
            if names.is_temp(path.name) or (names.checkpoint_of(path.name) or path.name) not in there
        ]

    def linked(self, link: str) -> str:
        """The name of the file that a link leads to, whether that is there or not; empty without the link."""
        path = self.directory / link
        return path.readlink().name if path.is_symlink() else ""

    def newest_intact(self) -> tuple[Saved | None, list[Rejected]]:
        """The newest checkpoint whose bytes are those of its manifest, and every newer file that is not.

        A checkpoint that is verified and fails makes the one before it the newest.
        """
        good, rejected = self.all()
        for saved in reversed(good):
            try:
                verify(self.directory / saved.name, saved)
            except CorruptCheckpointError as error:
                rejected.append(Rejected(self.directory / saved.name, str(error)))
                continue
            here = (saved.position.epoch, saved.position.batch)
            return saved, [item for item in rejected if (names.parse_name(item.path.name) or here) > here]
        return None, rejected

    def all(self) -> tuple[list[Saved], list[Rejected]]:
        """What is committed, and what is not, both oldest first."""
        good, rejected = [], []
        found = (path.name for path in self.directory.glob("*.ckpt")) if self.directory.is_dir() else ()
        for name in sorted((name for name in found if names.parse_name(name)), key=names.parse_name):  # type: ignore[arg-type]
            try:
                good.append(describe(self.directory / name))
            except CheckpointError as error:
                rejected.append(Rejected(self.directory / name, str(error), isinstance(error, NewerFormatError)))
        return good, rejected


def describe(path: Path) -> Saved:
    """The manifest of a checkpoint file, checked against the file's size.

    Raises:
        CorruptCheckpointError: there is no manifest, or it does not fit, or one of them cannot be read.
    """
    proof = path.with_name(names.manifest_name(path.name))
    if not proof.is_file():
        raise CorruptCheckpointError("it has no manifest: its save was never finished, or the manifest was lost")
    with _readable():
        saved = manifest.load(proof.read_bytes())
        size = path.stat().st_size
    if saved.name != path.name:
        raise CorruptCheckpointError(f"its manifest is that of {saved.name}")
    if size != saved.num_bytes:
        raise CorruptCheckpointError(f"it has {size} bytes, and its manifest says {saved.num_bytes}")
    return saved


def verify(path: Path, saved: Saved) -> None:
    """Compare the bytes of a file with the checksum of its manifest.

    Raises:
        CorruptCheckpointError: they differ, or cannot be read.
    """
    found = digest(path, saved.digest)
    if found != saved.digest:
        raise CorruptCheckpointError(f"its checksum is {_short(found)}, and its manifest says {_short(saved.digest)}")


def digest(path: Path, like: str) -> str:
    """The digest of a file, made as `like` was: of all bytes in manifests of format 1, else as `archive.read` does.

    Raises:
        CorruptCheckpointError: one of the checksums in the file does not fit, or it cannot be read.
    """
    with _readable():
        return disk.sha256(path) if like.startswith(disk.PLAIN) else file_format.read(path)


def verify_file(path: Path) -> str:
    """Compare any checkpoint file with its manifest, or without one with the checksums that torch.save stores in it.

    Returns:
        Against what it was compared, in words.

    Raises:
        CorruptCheckpointError: they differ, or it is no such file.
    """
    if names.parse_name(path.name) and path.with_name(names.manifest_name(path.name)).is_file():
        saved = describe(path)
        verify(path, saved)
        return _short(saved.digest)
    with _readable():
        file_format.read(path)
    return "it has no manifest; the checksums that torch.save has stored in it fit"


def _short(digest: str) -> str:
    return digest[: digest.find(":") + 13] + "..."


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CorruptCheckpointError(f"it cannot be read ({error.strerror or error})") from error
