"""Find the committed checkpoints in a directory, and verify files against their manifests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError, CorruptCheckpointError, NewerFormatError, ResumeError
from cairn.store import disk, file_format, links, manifest, names, shards
from cairn.types import Saved


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that cannot be used: a file, or a directory of shards."""

    path: Path
    why: str
    newer: bool = False
    """A later version of Cairn wrote it: it may be intact, so falling back to an older one would lose work."""

    @property
    def committed(self) -> bool:
        """True if it was committed once."""
        return os.path.lexists(self.path.with_name(names.manifest_name(self.path.name)))


class Catalog:
    """The checkpoints in one directory, which every method reads again.

    Args:
        directory: It may not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def committed(self) -> list[Saved]:
        """Checkpoints with a readable manifest and a file of the right size, oldest first."""
        return self.all()[0]

    def rejected(self) -> list[Rejected]:
        """Checkpoint files that cannot be used, oldest first."""
        return self.all()[1]

    def newest(self) -> Saved | None:
        """The last of `committed`, read without the others."""
        for name in reversed(self._names()):
            try:
                return describe(self.directory / name)
            except CheckpointError:
                continue
        return None

    def leftovers(self) -> list[Path]:
        """What an interrupted save or deletion left: hidden names, and manifests without a checkpoint."""
        there = set(self._listing())
        found = [
            name for name in sorted(there) if names.is_temp(name) or (names.checkpoint_of(name) or name) not in there
        ]
        return [self.directory / name for name in found if not self._is_newer(name)]

    def linked(self, link: str) -> str:
        """Name of the file that a link points to, which may not exist; empty if there is no link."""
        return links.named(self.directory / link)

    def newest_intact(self, check: Callable[[Path, Saved], None] | None = None) -> tuple[Saved | None, list[Rejected]]:
        """Verify checkpoints from the newest to the oldest until one is intact.

        Args:
            check: Does this in place of `verify`.

        Returns:
            That checkpoint, or None; and every newer file, with the reason why it was not used.
        """
        rejected: list[Rejected] = []
        for name in reversed(self._names()):  # one after the other: of thousands, most are never looked at
            path = self.directory / name
            try:
                saved = describe(path)
                (check or verify)(path, saved)
            except CheckpointError as error:
                rejected.append(_rejected(path, error))
                continue
            return saved, rejected[::-1]
        return None, rejected[::-1]

    def all(self) -> tuple[list[Saved], list[Rejected]]:
        """The results of `committed` and `rejected`, from one reading."""
        good, rejected = [], []
        for name in self._names():
            path = self.directory / name
            try:
                good.append(describe(path))
            except CheckpointError as error:
                rejected.append(_rejected(path, error))
        return good, rejected

    def _names(self) -> list[str]:
        """Names of the checkpoints, oldest first."""
        there = set(self._listing())
        # What belongs to a manifest of a later version may have another name there.
        alone = [name for name in there if (names.checkpoint_of(name) or name) not in there and self._is_newer(name)]
        there.update(str(names.checkpoint_of(name)) for name in alone)
        found = [(position, name) for name in there if (position := names.parse_name(name)) is not None]
        return [name for _, name in sorted(found)]

    def _is_newer(self, name: str) -> bool:
        """Whether a file belongs to a checkpoint that a later version of Cairn wrote: its manifest, or a hidden one."""
        checkpoint = names.name_before(name) or names.checkpoint_of(name)
        return checkpoint is not None and is_newer(self.directory / checkpoint)

    def _listing(self) -> list[str]:
        try:
            return os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return []


def _rejected(path: Path, error: CheckpointError) -> Rejected:
    return Rejected(path, str(error), isinstance(error, NewerFormatError))


def refuse_newer(rejected: Sequence[Rejected], consequence: str = "") -> None:
    """Refuse a directory in which a later version of Cairn has written, whose checkpoints are not to be touched.

    Args:
        rejected: What cannot be used there.
        consequence: What follows from it, for the message.

    Raises:
        ResumeError: Such a version wrote one of them.
    """
    if newer := [item for item in rejected if item.newer]:
        raise ResumeError(f"{newer[-1].path} cannot be used: {newer[-1].why}.{consequence}")


def is_newer(path: Path) -> bool:
    """Whether a later version of Cairn wrote the manifest of a checkpoint.

    Args:
        path: Its file or directory, which may have another name.
    """
    try:
        manifest.parse(opening.read_bytes(path.with_name(names.manifest_name(path.name))))
    except NewerFormatError:
        return True
    except (OSError, CheckpointError):
        return False
    return False


def describe(path: Path) -> Saved:
    """Read the manifest of a checkpoint, and compare it with the size of the file or of each shard.

    Args:
        path: The file, or the directory of shards.

    Returns:
        The checkpoint.

    Raises:
        CorruptCheckpointError: The manifest is missing or does not fit, or one of the two cannot be read.
        NewerFormatError: A later version of Cairn wrote the manifest.
    """
    proof = path.with_name(names.manifest_name(path.name))
    if not os.path.lexists(proof):
        raise CorruptCheckpointError("it has no manifest: its save was interrupted, or the manifest was lost")
    with _readable():
        saved = manifest.load(opening.read_bytes(proof))
        size = saved.num_bytes if saved.shards else opening.check(path)
    if saved.name != path.name:
        raise CorruptCheckpointError(f"its manifest belongs to {saved.name}")
    if saved.shards:
        shards.check_sizes(path, saved)
    elif size != saved.num_bytes:
        raise CorruptCheckpointError(f"it has {size} bytes, and its manifest says {saved.num_bytes}")
    return saved


def verify(path: Path, saved: Saved) -> None:
    """Compare the bytes of a checkpoint with its manifest.

    Args:
        path: The file, or the directory of shards.
        saved: What its manifest says.

    Raises:
        CorruptCheckpointError: They differ, or cannot be read.
    """
    if saved.shards:
        shards.verify(path, saved)
        return
    found = digest(path, saved.digest)
    if found != saved.digest:
        raise CorruptCheckpointError(f"its checksum is {_short(found)}, and its manifest says {_short(saved.digest)}")


def digest(path: Path, like: str) -> str:
    """Compute the digest of a checkpoint.

    Args:
        path: The file, or the directory of shards.
        like: A digest of the same kind: manifests of format 1 hold a SHA-256 of all bytes, later ones that of
            `file_format.digest`.

    Returns:
        The digest.

    Raises:
        CorruptCheckpointError: A checksum in the file does not fit, or the file cannot be read.
    """
    if path.is_dir():
        return shards.digest(path)
    with _readable():
        return disk.sha256(path) if like.startswith(disk.PLAIN) else file_format.read(path)


def verify_file(path: Path) -> str:
    """Compare a checkpoint with its manifest, or without one with the checksums that are stored inside.

    Args:
        path: Any checkpoint file, or a directory of shards.

    Returns:
        What it was compared with, for a message.

    Raises:
        CorruptCheckpointError: They differ, or it is not such a file.
    """
    if names.parse_name(path.name) and os.path.lexists(path.with_name(names.manifest_name(path.name))):
        saved = describe(path)
        verify(path, saved)
        return _short(saved.digest)
    if path.is_dir():
        return f"it has no manifest; the checksums stored in its {len(shards.read(path))} shards fit"
    with _readable():
        file_format.read(path)
    return "it has no manifest; the checksums stored in it by torch.save fit"


def _short(digest: str) -> str:
    return digest[: digest.find(":") + 13] + "..."


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CorruptCheckpointError(f"it cannot be read ({error.strerror or error})") from error
