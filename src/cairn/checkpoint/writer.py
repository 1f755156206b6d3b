"""HOW a checkpoint gets to disk: the file, whole and synced, then its manifest the same way.

Whatever happens between two of these steps, what was committed before stays whole and stays the newest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cairn.checkpoint import disk, layout, manifest, space
from cairn.checkpoint.errors import SaveError
from cairn.checkpoint.types import Saved


class Writer(Protocol):
    """Commits states; the part to exchange for a faster one."""

    def commit(self, state: Mapping[str, Any], draft: Saved, provenance: Mapping[str, Any]) -> Saved:
        """Write `state` under `draft.name` and then its manifest; return the draft with size, checksum and cost.

        Raises:
            SaveError: it could not be written, and nothing is left of it.
        """
        ...

    def link(self, link: str, target: str | None) -> None:
        """Let `link` point to `target`, in one step; None removes it.

        Raises:
            SaveError: it could not be moved, and points to where it did.
        """
        ...

    def remove(self, name: str) -> None:
        """Delete a checkpoint with its manifest, so that half a deletion is no checkpoint and is known for what it is.

        Raises:
            SaveError: it could not be deleted.
        """
        ...


class SyncWriter:
    """Writes in the calling thread.

    Args:
        directory: where checkpoints go. Made anew if somebody deletes it; but not with what is above it, since a disk
            that is not mounted any more is no place to go on in.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def commit(self, state: Mapping[str, Any], draft: Saved, provenance: Mapping[str, Any]) -> Saved:
        import torch  # not above: whoever only deletes and links need not wait for it

        started, path = time.monotonic(), self.directory / draft.name
        try:
            self._make_directory()
            file = disk.put(path, lambda stream: torch.save(state, stream))
            written = time.monotonic() - started
            saved = replace(
                draft,
                num_bytes=file.num_bytes,
                sha256=file.sha256,
                stall_s=draft.stall_s + written,  # training waits for the write as well as for the capture
                write_s=written,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            proof = manifest.dump(saved, provenance).encode()
            disk.put(self.directory / layout.manifest_name(draft.name), lambda stream: stream.write(proof))
        except OSError as error:
            with suppress(SaveError):
                self.remove(draft.name)
            raise SaveError(space.why_not_written(path, error, draft.num_bytes)) from error
        return saved

    def link(self, link: str, target: str | None) -> None:
        path = self.directory / link
        with _told(f"The link {path} could not be moved to {target}"):
            if target is None:
                disk.remove(path)
            else:
                disk.link(path, target)

    def remove(self, name: str) -> None:
        with _told(f"The checkpoint {self.directory / name} could not be deleted"):
            disk.remove_pair(self.directory / name, self.directory / layout.manifest_name(name))

    def _make_directory(self) -> None:
        if not self.directory.exists():
            os.mkdir(self.directory)
            disk.sync_directory(self.directory.parent)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(f"{what}: {error.strerror or error}.") from error
