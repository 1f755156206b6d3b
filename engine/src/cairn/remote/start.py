"""The start of a run that has a mirror: what is there, whose it is, and whether the run goes on from it.

the store answers          its newest intact checkpoint, if that is newer than the local one
it refuses, or is wrong    an error before anything is changed
it cannot be reached       a warning if the disk holds a checkpoint; else an error: starting over loses work
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

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

_T = TypeVar("_T")


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

    def first(self, use: Callable[[Objects, Record], _T]) -> _T | None:
        """Use the newest record whose contents can be used; log each one that is skipped.

        Args:
            use: Raises a CheckpointError for a record whose objects are missing or damaged.

        Returns:
            What it has returned; None: there is no record.

        Raises:
            ResumeError: None of them can be used, or a later version of Cairn wrote one.
            RemoteError: The store cannot be used.
        """
        if self.objects is None:
            return None
        objects, skipped = self.objects, list[str]()

        def find() -> _T | None:
            found = listed.look(objects)
            for record in fetch.newest_first(objects, found, skipped.append):
                try:
                    self._check_owner(record)
                    return use(objects, record)
                except CheckpointError as error:
                    skipped.append(f"{record.saved.name}: {error}")
            if found.stems:
                raise ResumeError(f"No checkpoint in {self.address} can be used ({'; '.join(skipped)}).")
            return None

        result = bounded.call(find, self.address)
        fetch.warn_of_skipped(objects, skipped)
        return result

    def _check_owner(self, record: Record) -> None:
        if self.run and record.saved.run and record.saved.run != self.run:
            raise CheckpointError(f"it belongs to the run {record.saved.run}, and owner.json names {self.run}")

    def nothing(self) -> str:
        """Return the message that there is no checkpoint, with runs that are below the address."""
        assert self.objects is not None
        objects = self.objects
        return bounded.call(lambda: listed.nothing_at(objects, listed.look(objects)), self.address)

    def bring(self, target: Target, local: Saved | None) -> tuple[Saved | None, str]:
        """Bring the newest intact checkpoint into the directory of a run, if it is newer than the local one.

        Args:
            target: The run on this machine.
            local: Its newest intact checkpoint.

        Returns:
            What was brought; None: nothing. And why the mirror could not be reached; empty: it could.

        Raises:
            ResumeError: The mirror cannot be used, and the disk holds no checkpoint; or there is no room.
        """
        try:
            if self.objects is None:
                raise RemoteError(self.trouble)
            return _brought(self.objects, target, local), ""
        except RemoteError as error:
            if local is None:
                raise _no_other(error) from error
            log.warning("%s The run goes on from its newest checkpoint on this disk.", error)
            return None, str(error)


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
        # A mirror that was copied by other means may have no owner.
        run = found.run or found.first(lambda objects, record: record.saved.run) or ""
    except RemoteError as error:
        if error.kind in ("no_bucket", "refused", "misused"):
            raise ConfigError(str(error), parameter="mirror") from error
        return Found(address, None, trouble=str(error))
    return Found(address, found.objects, run)


def claimed(found: Found, run: str, name: str) -> Found:
    """Make a mirror that of a run, and check that it can be written, within a time limit.

    Args:
        found: The mirror, as this start has found it.
        run: Id of the run.
        name: Name of its run directory, for messages.

    Returns:
        The mirror; without its objects if the store does not answer any more.

    Raises:
        ConfigError: It belongs to another run, or cannot be written.
    """
    if found.objects is None:
        return found
    objects = found.objects

    def claim() -> None:
        if not owner.claim(objects, run, name):
            owner.check_writable(objects)

    try:
        bounded.call(claim, found.address, bounded.START_S)
    except RemoteError as error:
        if error.kind != "unavailable":
            text = f"{error} Its objects can be read, and none can be written."
            raise ConfigError(text, parameter="mirror") from error
        return replace(found, objects=None, trouble=str(error))
    return replace(found, run=run)


def bring_files(found: Found, run: Path) -> bool:
    """Bring the run files of the newest record whose files are intact.

    Args:
        found: The mirror.
        run: The run directory.

    Returns:
        False if the mirror has no record.

    Raises:
        ResumeError: No record can be used, or a file cannot be written.
        RemoteError: The store cannot be used.
    """

    def bring(objects: Objects, record: Record) -> bool:
        local_files.bring(objects, record.files, run)
        return True

    return bool(found.first(bring))


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
