"""A claim: which run a checkpoint directory belongs to, and which start of that run may write to it now.

    .claim    names the run; it stays when the run has ended
    .lock     empty; locked by the process that trains

    two runs that start at the same time     one of them creates .claim (O_EXCL), the other one reads it
    two starts of one run                    one of them gets the lock
    the same on a file system without locks  the later start puts its own id into .claim, and the earlier one finds
                                             that id before its next commit: its saves fail from there on

The file lies in the directory itself, so that it is found under every path that leads there.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from cairn import opening, records
from cairn.errors import ConfigError, SaveError
from cairn.known_directory import KnownDirectory
from cairn.records import RecordError
from cairn.store import disk, names, resume
from cairn.store.directory_lock import DirectoryLock, InUse

PATIENCE_S = 5.0
"""Maximum time to wait for a process that was killed to release the lock, in seconds."""
WRITING_S = 1.0
"""Maximum time to wait for the contents of a claim that another process has just created, in seconds."""
_POLL_S = 0.05
_MAX_BYTES = 2**16


@dataclass(frozen=True)
class Owner:
    """The run that a directory belongs to, as `.claim` names it."""

    run: str
    """Id of the run."""
    name: str = ""
    """Run directory or script, for messages. A run directory that is a copy has the same id and another path."""
    directory: str = ""
    """Path of the checkpoint directory when it was claimed."""
    attempt: str = field(default_factory=lambda: secrets.token_hex(8))
    """Id of the process start that writes to it, or did so last."""
    process: str = field(default_factory=lambda: f"process {os.getpid()} on {socket.gethostname()}")
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """UTC time of that start, ISO 8601."""

    def __str__(self) -> str:
        return f"{self.run}, {self.name}" if self.name else self.run


@dataclass(frozen=True)
class Permit:
    """What a writer checks before each commit; plain values, so that it can be sent to another process."""

    directory: KnownDirectory
    attempt: str

    def check(self, name: str) -> None:
        """Check that the directory is still there, and that no other start has taken it over.

        Args:
            name: The checkpoint that is about to be written.

        Raises:
            SaveError: The directory is gone, or another process writes to it now.
        """
        failed = f"The checkpoint {self.directory.path / name} could not be written"
        try:
            self.directory.check()
        except OSError as error:
            raise SaveError(f"{failed}: {error.strerror}.") from error
        found = read(self.directory.path)
        if found is not None and found.attempt != self.attempt:  # no file: someone has removed it, not taken it over
            raise SaveError(
                f"{failed}: {found.process} has taken over the directory for run {found} since this process began. "
                f"Stop one of the two."
            )


@dataclass(frozen=True)
class Before:
    """A claim as a start has found it."""

    contents: bytes
    times_ns: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> Before:
        """Read it, though another process may be writing it right now. A crash may have left it empty."""
        until = time.monotonic() + WRITING_S
        while not (contents := _contents(path)) and time.monotonic() < until:
            time.sleep(_POLL_S)
        times_ns = 0, 0
        with suppress(FileNotFoundError):  # without locks, a start that was refused may just have removed it
            found = os.lstat(path)
            times_ns = found.st_atime_ns, found.st_mtime_ns
        return cls(contents, times_ns)


class Claim:
    """A directory that this process may write to until `release`.

    Args:
        permit: What writers check.
        previous: `.claim` before; None: there was none.
        lock: The lock of the directory.
        is_new: The directory was created for it.
    """

    def __init__(self, permit: Permit, previous: Before | None, lock: DirectoryLock, is_new: bool) -> None:
        self.permit, self._previous, self._lock, self._is_new = permit, previous, lock, is_new

    def release(self) -> None:
        """Let other processes go on with the run. The directory still belongs to it."""
        self._lock.release()

    def withdraw(self) -> None:
        """Release it, and leave `.claim` as it was: this start was refused."""
        if self._lock.num_holders == 1:
            with suppress(OSError):
                self._restore(self.permit.directory)
        self.release()

    def _restore(self, known: KnownDirectory) -> None:
        known.check()
        found = read(known.path)
        if found is not None and found.attempt != self.permit.attempt:
            return  # without locks, a later start has taken it over
        if self._previous is not None:
            disk.put(known.path / names.CLAIM, self._previous.contents)
            os.utime(known.path / names.CLAIM, ns=self._previous.times_ns)
            return
        disk.remove(known.path / names.CLAIM)
        disk.remove(known.path / names.LOCK)
        if self._is_new:
            os.rmdir(known.path)


def take(directory: Path, run: str, name: str = "", patience_s: float | None = None) -> Claim:
    """Claim a directory for a run, and keep other processes from writing to it until `release`.

    Args:
        directory: A checkpoint directory, which is created if it is missing.
        run: Id of the run.
        name: Run directory or script, for messages.
        patience_s: Maximum time to wait for a process that holds the lock, in seconds.

    Raises:
        ConfigError: It belongs to another run, another process holds it, or it cannot be written.
        ResumeError: The writer of a killed process makes no progress.
    """
    try:
        is_new = not directory.exists()
        disk.make_directory(directory)
        known = KnownDirectory.at_or_above(directory)
        if (found := read(directory)) is not None and found.run != run:
            _check(found, Owner(run, name), directory)  # at once: it does not matter whether that run still trains
        lock = DirectoryLock.take(directory, PATIENCE_S if patience_s is None else patience_s)
        try:
            # The writer of a killed attempt may still commit, which it would not do once the claim has another attempt.
            resume.wait_for_writers(directory)
            owner, previous = _claim(directory, Owner(run, name, str(directory.resolve())), lock.num_holders > 1)
        except BaseException:
            lock.release()
            raise
    except InUse as error:
        holder = read(directory)
        by = f"{holder.process} trains there (run {holder})" if holder else "another process trains there"
        raise ConfigError(
            f"directory={directory} is in use: {by}. Wait for it, stop it, or choose another directory.",
            parameter="directory",
        ) from error
    except OSError as error:
        why = f"{error.strerror} ({error.filename})" if error.filename else error.strerror or str(error)
        raise ConfigError(
            f"directory={directory} cannot be written: {why}. Fix that, or choose another directory.",
            parameter="directory",
        ) from error
    return Claim(Permit(known, owner.attempt), previous, lock, is_new)


def read(directory: Path) -> Owner | None:
    """Return the owner of a directory; None if no run has claimed it, or if the claim cannot be read."""
    return _parse(_contents(directory / names.CLAIM))


def _claim(directory: Path, owner: Owner, shared: bool) -> tuple[Owner, Before | None]:
    """Write the claim, or compare it with the one that is there. Returns the owner, and the claim from before."""
    path, data = directory / names.CLAIM, (json.dumps(asdict(owner)) + "\n").encode()
    try:
        # Not by a link or a rename, which not every file system can do without replacing a file.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        previous = Before.of(path)
        found = _parse(previous.contents)
        if found is not None:
            _check(found, replace(owner, name=found.name) if shared else owner, directory)
            if shared:
                return found, previous
        disk.put(path, data)
        return owner, previous
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    disk.sync_directory(directory)
    return owner, None


def _check(found: Owner, owner: Owner, directory: Path) -> None:
    """Check that a claim is that of this run.

    Raises:
        ConfigError: It is that of another run, or of the run directory that this one is a copy of.
    """
    if found.run != owner.run:
        raise ConfigError(
            f"directory={directory} belongs to another run ({found}, since {found.since}): give each run "
            f"a directory of its own. If that run is not needed any more, delete its checkpoints and "
            f"{directory / names.CLAIM}.",
            parameter="directory",
        )
    is_here = found.directory == owner.directory  # else the directory was moved or copied, together with its claim
    if is_here and _is_other_directory(found.name, owner.name):
        raise ConfigError(
            f"directory={directory} belongs to the run {found}, and {owner.name} is a copy of it: give the copy a "
            f"directory of its own.",
            parameter="directory",
        )


def _is_other_directory(one: str, other: str) -> bool:
    return os.path.isdir(one) and os.path.isdir(other) and not os.path.samefile(one, other)


def _contents(path: Path) -> bytes:
    try:
        return opening.read_bytes(path, _MAX_BYTES)
    except OSError:
        return b""


def _parse(contents: bytes) -> Owner | None:
    try:
        given = records.parse(contents)
        # Keys of a later version are left out: its run is the owner as well.
        return records.read(Owner, {item.name: given[item.name] for item in fields(Owner)})
    except (RecordError, TypeError, KeyError):
        return None
