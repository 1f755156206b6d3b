"""The artifacts of a run as files: on this machine, where checkpoints become hard links, or behind MLflow's client."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from cairn import opening
from cairn.store import disk, names
from cairn.trackers.remote import NOTE
from cairn.uploads.outbox import link_or_copy

FOLDER = "checkpoints"
"""Folder of all checkpoints among the artifacts of a run."""


class ArtifactFiles(Protocol):
    """Folders of files below `checkpoints`. A path is relative to that."""

    def folders(self) -> list[str]:
        """Names of the folders."""
        ...

    def sizes(self, folder: str) -> Mapping[str, int]:
        """Sizes of the files in a folder and below it, by their path in it, in bytes."""
        ...

    def read(self, path: str) -> bytes:
        """Read a small file."""
        ...

    def put(self, source: Path, path: str) -> None:
        """Store a file, in place of one that is there."""
        ...

    def write(self, content: bytes, path: str) -> None:
        """Store a small file."""
        ...

    def delete(self, folder: str) -> None:
        """Delete a folder."""
        ...


def local_path(uri: str) -> Path | None:
    """The path of artifacts on this machine; None if they are elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


class LocalFiles:
    """Artifacts on this machine.

    Args:
        root: Where the artifacts of the run are.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER

    def folders(self) -> list[str]:
        """See `ArtifactFiles`."""
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if path.is_dir() and not path.name.startswith("."))

    def sizes(self, folder: str) -> Mapping[str, int]:
        """See `ArtifactFiles`."""
        found = (path for path in (self._root / folder).rglob("*") if path.is_file())
        return {path.relative_to(self._root / folder).as_posix(): path.stat().st_size for path in found}

    def read(self, path: str) -> bytes:
        """See `ArtifactFiles`."""
        return opening.read_bytes(self._root / path)

    def put(self, source: Path, path: str) -> None:
        """See `ArtifactFiles`. A hard link takes no room, and keeps the bytes when retention deletes the checkpoint."""
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temp = target.with_name(names.temp_name(target.name))
        disk.remove(temp)
        link_or_copy(source, temp)
        os.replace(temp, target)

    def write(self, content: bytes, path: str) -> None:
        """See `ArtifactFiles`."""
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        disk.put(target, content)

    def delete(self, folder: str) -> None:
        """See `ArtifactFiles`. A kill may leave a part of it, which has no note."""
        disk.remove(self._root / folder / NOTE)
        shutil.rmtree(self._root / folder)


class ClientFiles:
    """Artifacts behind MLflow's client: on a server, or in a bucket.

    Args:
        client: The client.
        run_id: MLflow's id of the run.
        uri: Where its artifacts are.
        folder: Folder for temporary files.
    """

    def __init__(self, client: Any, run_id: str, uri: str, folder: Path) -> None:
        self._client, self._run_id, self._uri, self._folder = client, run_id, uri, folder

    def folders(self) -> list[str]:
        """See `ArtifactFiles`."""
        found = self._client.list_artifacts(self._run_id, FOLDER)
        return sorted(item.path.rpartition("/")[2] for item in found if item.is_dir)

    def sizes(self, folder: str) -> Mapping[str, int]:
        """See `ArtifactFiles`."""
        top = f"{FOLDER}/{folder}"
        sizes, left = dict[str, int](), [top]
        while left:
            for item in self._client.list_artifacts(self._run_id, left.pop()):
                if item.is_dir:
                    left.append(item.path)
                else:
                    sizes[item.path.removeprefix(f"{top}/")] = item.file_size or 0
        return sizes

    def read(self, path: str) -> bytes:
        """See `ArtifactFiles`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            return opening.read_bytes(Path(self._client.download_artifacts(self._run_id, f"{FOLDER}/{path}", made)))

    def put(self, source: Path, path: str) -> None:
        """See `ArtifactFiles`."""
        folder, _, name = f"{FOLDER}/{path}".rpartition("/")
        if source.name == name:
            self._client.log_artifact(self._run_id, str(source), folder)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            link_or_copy(source, Path(made) / name)
            self._client.log_artifact(self._run_id, str(Path(made) / name), folder)

    def write(self, content: bytes, path: str) -> None:
        """See `ArtifactFiles`."""
        self._client.log_text(self._run_id, content.decode(), f"{FOLDER}/{path}")

    def delete(self, folder: str) -> None:
        """See `ArtifactFiles`."""
        from cairn.mlflow import client

        client.delete_artifacts(self._uri, f"{FOLDER}/{folder}")
