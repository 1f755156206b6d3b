"""The objects below one address: all that the library asks of an object store, and the errors that it may answer.

Every call may take as long as its time limits allow. None belongs on the thread that trains or commits, and a start
makes them through `bounded`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cairn import opening
from cairn.errors import RemoteError
from cairn.remote import trouble
from cairn.remote.address import Address
from cairn.remote.connection import Connection
from cairn.store import disk

CHUNK_BYTES = 2**23
"""Size of the pieces of a large upload or download, each of which is one request."""
NUM_AT_ONCE = 8
"""How many pieces are transferred at a time: at most this many are in memory."""
_MOST_PIECES = 9000
"""S3 accepts 10,000 pieces for one object."""


class Objects:
    """The objects whose keys begin with an address. Methods may be called from several threads.

    Args:
        address: Names are relative to it.

    Raises:
        ConfigError: The client is not installed.
        RemoteError: The environment does not say how to reach the store.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.skipped: set[str] = set()  # what was logged about damaged checkpoints
        connection = Connection(address)
        self._client, self._call = connection.client, connection.call

    def check(self) -> None:
        """Check that the bucket exists and that the credentials may list it.

        Raises:
            RemoteError: They do not.
        """
        self._call(lambda store: next(iter(self._client.list(store, self.address.prefix or None, chunk_size=1)), None))

    def list(self, below: str = "") -> list[tuple[str, int]]:
        """Return the names and sizes in bytes of all objects, in no order.

        Args:
            below: Only those in this folder.

        Raises:
            RemoteError: The store cannot be used.
        """
        prefix = "/".join(part for part in (self.address.prefix, below.rstrip("/")) if part)
        found = self._call(lambda store: self._client.list(store, prefix or None).collect())
        skipped = len(self.address.prefix) + 1 if self.address.prefix else 0
        return [(item["path"][skipped:], item["size"]) for item in found]

    def put(self, name: str, data: bytes) -> None:
        """Write an object, or replace it.

        Raises:
            RemoteError: It could not be written.
        """
        self._call(lambda store: self._client.put(store, self._key(name), data, use_multipart=False))
        _sync(self.address, name)

    def put_file(self, name: str, path: Path, beat: Callable[[int], None] = lambda num_bytes: None) -> None:
        """Upload a file, a large one in pieces. It appears when it is complete.

        Args:
            name: Name of the object.
            path: The file.
            beat: Called repeatedly with the number of bytes read so far; what it raises ends the upload.

        Raises:
            RemoteError: It could not be uploaded.
            OSError: The file cannot be read.
        """
        num_bytes = opening.check(path)
        chunk = max(CHUNK_BYTES, -(-num_bytes // _MOST_PIECES))
        limits = {"chunk_size": chunk, "max_concurrency": NUM_AT_ONCE}

        with opening.for_reading(path) as source:
            file = _Counted(source, beat)

            def upload(store: Any) -> None:
                file.seek(0)
                try:
                    self._client.put(store, self._key(name), file, use_multipart=num_bytes > chunk, **limits)
                except Exception:
                    if file.error is None:
                        raise

            self._call(upload)
            if file.error is not None:  # the client would hide it behind an error of its own
                raise file.error
        _sync(self.address, name)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object only if none has its name, in one step that the store decides.

        Returns:
            True if the object holds `data` now: it was created, perhaps by an earlier request whose answer was lost.

        Raises:
            RemoteError: It could not be written.
        """
        try:
            self._call(lambda store: self._client.put(store, self._key(name), data, mode="create"))
        except self._client.exceptions.AlreadyExistsError:
            if self.get(name, len(data)) != data:
                return False
        _sync(self.address, name)
        return True

    def get(self, name: str, most_bytes: int = opening.MOST_BYTES) -> bytes:
        """Read a whole object; of a larger one only `most_bytes` and one more byte.

        Raises:
            RemoteError: It does not exist, or cannot be read.
        """

        def read(store: Any) -> bytes:
            found = self._client.get(store, self._key(name))
            if found.meta["size"] > most_bytes:
                return bytes(self._client.get_range(store, self._key(name), start=0, end=most_bytes + 1))
            return bytes(found.bytes())

        return self._call(read)

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """Read a piece of an object, at least one byte.

        Args:
            name: Name of the object.
            start: First byte.
            end: The byte after the last one.

        Raises:
            RemoteError: It does not exist, is shorter, or cannot be read.
        """
        data = self._call(lambda store: bytes(self._client.get_range(store, self._key(name), start=start, end=end)))
        if len(data) != end - start:
            raise RemoteError(f"The object {name} of {self.address} is shorter than expected.", kind="missing")
        return data

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, if they exist.

        Raises:
            RemoteError: One could not be deleted; others may be.
        """
        keys = [self._key(name) for name in names]
        if keys and not self._deleted(keys):  # a directory stops at the first that is missing
            for key in keys:
                self._deleted([key])

    def _deleted(self, keys: Sequence[str]) -> bool:
        return _is_deleted(lambda: self._call(lambda store: self._client.delete(store, keys)))

    def _key(self, name: str) -> str:
        return self.address.key(name)


def _is_deleted(delete: Callable[[], None]) -> bool:
    """Delete objects; return False if one was missing."""
    try:
        delete()
    except RemoteError as error:
        if error.kind != "missing":
            raise
        return False
    return True


def _sync(address: Address, name: str) -> None:
    """Make an object on another disk survive a power cut; the client does not."""
    if address.scheme != "file":
        return
    path = Path("/", address.key(name))
    try:
        with opening.for_reading(path) as file:
            os.fsync(file.fileno())
        disk.sync_directory(path.parent)
    except OSError as error:  # a disk in the network may be full only now
        raise trouble.explain(error, address) from error


class _Counted:
    """A file that reports how much of it was read.

    Args:
        file: The file.
        beat: Called after each read.
    """

    def __init__(self, file: BinaryIO, beat: Callable[[int], None]) -> None:
        self._file = file
        self._beat = beat
        self.seek, self.tell = file.seek, file.tell
        self.error: BaseException | None = None
        """What a read has raised."""

    def read(self, num_bytes: int = -1) -> bytes:
        """Read and count."""
        try:
            data = self._file.read(num_bytes)
            self._beat(self._file.tell())
        except BaseException as error:
            self.error = error
            raise
        return data
