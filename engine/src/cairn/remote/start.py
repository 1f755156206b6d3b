"""The start of a run that has a mirror: what is there, whose it is, and whether the run goes on from it.

the store answers          its newest intact checkpoint, if that is newer than the local one
it refuses, or is wrong    an error before anything is changed
it cannot be reached       a warning if the disk holds a checkpoint; else an error: starting over loses work
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.errors import CheckpointError, ConfigError, RemoteError, ResumeError
from cairn.remote import bounded, fetch, listed, local_files, owner
from cairn.remote.address import Address
from cairn.remote.fetch import Target
from cairn.remote.objects import Objects
from cairn.remote.record import Record
from cairn.store import disk
from cairn.store.catalog import Catalog, verify
from cairn.types import Saved

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A mirror, as a start has found it."""

    address: Address
    objects: Objects | None
    """None: the store cannot be reached."""
    run: str = ""
    """Id of the run that the mirror belongs to; empty: no run has used it yet."""
    trouble: str = ""
    """Why the store cannot be reached."""

    def check_run(self, run: str) -> None:
        """Check that the mirror is not that of another run.

        Raises:
            ConfigError: It is.
        """
        if self.run and run and self.run != run:
            raise ConfigError(
                f"{self.address} holds the run {self.run}, and this is the run {run}: give each run an address of its "
                f"own, or continue that one with resume={self.address}.",
                parameter="mirror",
            )

    def record(self) -> Record | None:
        """Return the newest record that can be read; None: there is none.

        Raises:
            ResumeError: A later version of Cairn wrote it.
            RemoteError: The store cannot be used.
        """
        if self.objects is None:
            return None
        objects = self.objects

        def read() -> Record | None:
            return next(fetch.newest_first(objects, listed.look(objects), lambda text: None), None)

        return bounded.call(read, self.address)

    def bring(self, target: Target, local: Saved | None) -> Saved | None:
        """Bring the newest intact checkpoint into the directory of a run, if it is newer than the local one.

        Args:
            target: The run on this machine.
            local: Its newest intact checkpoint.

        Returns:
            What was brought; None: nothing.

        Raises:
            ResumeError: The mirror cannot be used, and the disk holds no checkpoint; or there is no room.
        """
        try:
            if self.objects is None:
                raise RemoteError(self.trouble)
            return _brought(self.objects, target, local)
        except RemoteError as error:
            if local is None:
                raise _no_other(error) from error
            log.warning("%s The run goes on from its newest checkpoint on this disk.", error)
            return None


def look(address: Address) -> Found:
    """Look at a mirror, within a time limit.

    Args:
        address: The mirror of a run.

    Raises:
        ConfigError: The address, the credentials or the bucket are wrong, or the client is not installed.
    """

    def ask() -> Found:
        objects = Objects(address)
        objects.check()
        owned = owner.read(objects)
        return Found(address, objects, owned.run if owned is not None else "")

    try:
        found = bounded.call(ask, address, bounded.START_S)
        record = found.record() if not found.run else None  # a mirror that was copied may have no owner
    except RemoteError as error:
        if error.kind in ("no_bucket", "refused", "misused"):
            raise ConfigError(str(error), parameter="mirror") from error
        return Found(address, None, trouble=str(error))
    return Found(address, found.objects, record.saved.run) if record is not None else found


def bring_files(found: Found, record: Record, run: Path, wanted: Sequence[str] = ()) -> None:
    """Bring the run files of a record.

    Args:
        found: The mirror.
        record: The record.
        run: The run directory.
        wanted: Only these paths; empty: all.

    Raises:
        CheckpointError: One is missing or damaged.
        ResumeError: The store cannot be used, or a file cannot be written.
    """
    assert found.objects is not None
    objects, files = found.objects, [item for item in record.files if not wanted or item.path in wanted]
    try:
        bounded.call(lambda: local_files.bring(objects, files, run), found.address)
    except RemoteError as error:
        raise _no_other(error) from error


def _brought(objects: Objects, target: Target, local: Saved | None) -> Saved | None:
    disk.make_directory(target.directory)
    # All processes of a run may ask at once: one downloads, and the others find what it has brought.
    with disk.locked(target.directory):
        now = _newer(target.directory, local)
        brought = bounded.call(lambda: fetch.newest(objects, target, now or local), objects.address)
        return brought or now


def _newer(directory: Path, local: Saved | None) -> Saved | None:
    """Return what another process has brought meanwhile, if it is intact."""
    now = Catalog(directory).newest()
    if now is None or (local is not None and now.position <= local.position):
        return None
    try:
        verify(directory / now.name, now)
    except CheckpointError:
        return None
    return now


def _no_other(error: RemoteError) -> ResumeError:
    return ResumeError(
        f"{error} This disk holds no checkpoint of the run, but the store may hold some. To start over without it, set "
        f"mirror=null.",
        parameter="mirror",
    )
