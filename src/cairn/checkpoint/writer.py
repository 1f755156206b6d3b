"""HOW a checkpoint gets to disk: temp beside the target, fsync, rename, then its manifest the same way, then links.

Whatever happens between two of these steps, what was committed before stays whole and stays the newest.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from cairn.checkpoint import layout, manifest
from cairn.checkpoint.errors import SaveError
from cairn.checkpoint.types import Saved


class Writer(Protocol):
    """Commits states; the part to exchange for a faster one."""

    def commit(self, state: Mapping[str, Any], draft: Saved, provenance: Mapping[str, Any]) -> Saved:
        """Write `state` under `draft.name` and then its manifest; return the draft with size, checksum and cost."""
        ...

    def remove(self, name: str) -> None:
        """Delete a checkpoint: its manifest first, so that half a deletion is no checkpoint."""
        ...

    def link(self, link: str, target: str | None) -> None:
        """Let `link` point to `target`, in one step; None removes it."""
        ...

    def sweep(self) -> None:
        """Remove what writers that died have left half written."""
        ...


class SyncWriter:
    """Writes in the calling thread.

    Args:
        directory: where checkpoints go; made if missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def commit(self, state: Mapping[str, Any], draft: Saved, provenance: Mapping[str, Any]) -> Saved:
        started = time.monotonic()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            num_bytes, sha256 = self._put(draft.name, lambda file: torch.save(state, file))
            now = datetime.now(UTC).isoformat(timespec="seconds")
            written = time.monotonic() - started
            stall = draft.stall_s + written  # training waits for the write as well as for the capture
            saved = replace(draft, num_bytes=num_bytes, sha256=sha256, stall_s=stall, write_s=written, created=now)
            text = manifest.dump(saved, provenance)
            self._put(layout.manifest_name(draft.name), lambda file: file.write(text.encode()))
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
            self._forget(draft.name)
            raise SaveError(f"The checkpoint {self.directory / draft.name} could not be written: {error}") from error
        return saved

    def remove(self, name: str) -> None:
        for path in (self.directory / layout.manifest_name(name), self.directory / name):
            path.unlink(missing_ok=True)

    def link(self, link: str, target: str | None) -> None:
        path, temp = self.directory / link, self.directory / layout.temp_name(link)
        if target is None:
            path.unlink(missing_ok=True)
        elif not path.is_symlink() or os.readlink(path) != target:
            temp.unlink(missing_ok=True)
            temp.symlink_to(target)
            temp.replace(path)
            _fsync_directory(self.directory)

    def sweep(self) -> None:
        with suppress(FileNotFoundError):
            for path in self.directory.iterdir():
                if layout.is_temp(path.name):
                    path.unlink(missing_ok=True)

    def _forget(self, name: str) -> None:
        """Remove what a save that failed has left: it is not the one that it was told to be."""
        with suppress(OSError):
            self.remove(name)

    def _put(self, name: str, write: Any) -> tuple[int, str]:
        temp = self.directory / layout.temp_name(name)
        try:
            with open(temp, "wb") as file:
                hashing = _HashingFile(file)
                write(hashing)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(self.directory / name)
        except BaseException:
            with suppress(OSError):
                temp.unlink(missing_ok=True)
            raise
        _fsync_directory(self.directory)
        return hashing.num_bytes, hashing.digest()


class _HashingFile:
    """A file for writing that hashes what passes: the checksum costs no second reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.num_bytes += memoryview(data).nbytes
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()


def _fsync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
