"""The digests of what retention has deleted, so that a later start can delete a tracker's versions of it as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cairn import opening
from cairn.known_directory import KnownDirectory
from cairn.store import disk
from cairn.types import Saved

_FOLDERS = ("wandb", "mlflow", "trackio")
"""Folders of the trackers in a run directory."""


class Deleted:
    """A file of digests. A checkpoint that is missing and not in it was moved by its owner: the tracker keeps it.

    Args:
        folder: Where the file is: the folder of a tracker in a run directory, such as `wandb`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pruned.txt"
        self._known = KnownDirectory.at_or_above(folder.parent)

    def note(self, digest: str) -> None:
        """Add a digest, before the checkpoint is deleted: a kill may come in between. What is kept after all, counts.

        Args:
            digest: Digest of the checkpoint; an empty one is ignored.
        """
        if digest:
            try:
                self._known = self._known.make(self.path.parent)
                with opening.for_appending(self.path) as file:
                    file.write(f"{digest}\n".encode())
            except OSError:
                pass  # the version is deleted by this process, unless it ends before

    def digests(self) -> set[str]:
        """All digests. Those without a scheme in front were noted in times of manifest format 1."""
        noted = [line.strip() for line in opening.lines(self.path)] if self.path.is_file() else []
        return {digest if ":" in digest else disk.PLAIN + digest for digest in noted if digest}


def note_in_all(run: Path, deleted: Sequence[Saved]) -> None:
    """Record deletions that are not made by the run itself: its next start, or `cairn sync`, repeats them there.

    Args:
        run: The run directory.
        deleted: The checkpoints, which are deleted afterwards.
    """
    for folder in (run / name for name in _FOLDERS):
        if folder.is_dir():
            for saved in deleted:
                Deleted(folder).note(saved.digest)
