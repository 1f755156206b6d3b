"""Which run a mirror belongs to, and which process start of that run may upload to it now.

owner.json     created only if there is none: of two runs with one address, the store lets one create it
attempt.json   overwritten by each start: an earlier one that still runs finds another id there, and stops;
               and at the end of a start, which says there that it uploads nothing more
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime

from cairn import records
from cairn.errors import CairnError, ConfigError, RemoteError
from cairn.records import RecordError
from cairn.remote import layout
from cairn.remote.objects import Objects

log = logging.getLogger(__name__)

_MOST_BYTES = 2**16


class TakenOver(CairnError):
    """Another start of the run uploads to the mirror now, or has uploaded what this one lacks."""


@dataclass(frozen=True)
class Owner:
    """The run that a mirror belongs to."""

    run: str
    """Id of the run."""
    name: str = ""
    """Name of its run directory, for messages."""
    since: str = field(default_factory=lambda: _now())
    """UTC time, ISO 8601."""


@dataclass(frozen=True)
class Attempt:
    """A process start of the run."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    since: str = field(default_factory=lambda: _now())
    ended: str = ""
    """When it has uploaded all that it had; empty: it may be uploading, or was killed."""

    def begin(self, objects: Objects) -> None:
        """Let this start upload, and no earlier one any more.

        Raises:
            RemoteError: The store cannot be used.
        """
        objects.put(layout.ATTEMPT, (json.dumps(asdict(self)) + "\n").encode())

    def end(self, objects: Objects) -> None:
        """Say that this start uploads nothing more, unless a later one has begun.

        Raises:
            TakenOver: One has.
            RemoteError: The store cannot be used.
        """
        self.check(objects)
        replace(self, ended=_now()).begin(objects)

    def check(self, objects: Objects) -> None:
        """Check that no later start has begun.

        Raises:
            TakenOver: One has.
            RemoteError: The store cannot be used.
        """
        try:
            found = records.parse(objects.get(layout.ATTEMPT, _MOST_BYTES))
        except RemoteError as error:
            if error.kind != "missing":
                raise
            raise RemoteError(
                f"{layout.ATTEMPT} of {objects.address} is gone: the mirror was deleted, or its disk is not mounted.",
                kind="missing",
            ) from None
        except RecordError:
            return
        if isinstance(found, dict) and found.get("id", self.id) != self.id:
            raise TakenOver(
                f"another process has continued this run since {found.get('since')}, and uploads to {objects.address}. "
                f"Stop one of the two"
            )


def claim(objects: Objects, run: str, name: str = "") -> bool:
    """Make a mirror that of a run, or check that it is.

    Args:
        objects: The objects of the mirror.
        run: Id of the run.
        name: Name of its run directory, for messages.

    Returns:
        Whether this call has made it that of the run.

    Raises:
        ConfigError: It belongs to another run.
        RemoteError: The store cannot be used.
    """
    # Servers that ignore the condition of a conditional create overwrite the owner, so it is read first.
    found = read(objects)
    if found is None:
        contents = (json.dumps(asdict(Owner(run, name))) + "\n").encode()
        if objects.create(layout.OWNER, contents):
            _check_condition(objects, contents)
            return True
        found = read(objects)
    if found is not None and found.run != run:
        raise ConfigError(
            f"{objects.address} belongs to another run ({', '.join(filter(None, (found.run, found.name)))}, since "
            f"{found.since}): give each run an address of its own, resume that one, or delete what is there.",
            parameter="mirror",
        )
    return False


def check_writable(objects: Objects) -> None:
    """Write an object and delete it: credentials may list and read, and nothing else.

    Raises:
        RemoteError: It could not be written.
    """
    contents = secrets.token_bytes(32)
    # The name of a run file: if it is left behind, it is removed like those.
    name = layout.part_name(hashlib.sha256(contents).hexdigest())
    objects.put(name, contents)
    with suppress(RemoteError):  # a store may be set to keep everything
        objects.delete([name])


def open_since(objects: Objects) -> str:
    """Return since when a start may be uploading to a mirror: it was killed, or is at work; empty: none is.

    Raises:
        RemoteError: The store cannot be used.
    """
    try:
        found = records.parse(objects.get(layout.ATTEMPT, _MOST_BYTES))
    except RemoteError as error:
        if error.kind != "missing":
            raise
        return ""
    except RecordError:
        return "an unknown time"
    values = found if isinstance(found, dict) else {}
    return "" if values.get("ended") else str(values.get("since") or "an unknown time")


def _check_condition(objects: Objects, contents: bytes) -> None:
    """Warn if the store overwrites an object that was to be created only if there is none."""
    if objects.create(layout.OWNER, contents + b"\n"):  # the same to a reader
        log.warning(
            "%s ignores that an object is to be created only if there is none: two runs that start with this address "
            "at the same moment do not notice each other. Give each run an address of its own.",
            objects.address,
        )


def read(objects: Objects) -> Owner | None:
    """Return the owner of a mirror; None if no run has claimed it.

    Raises:
        ConfigError: It cannot be read.
        RemoteError: The store cannot be used.
    """
    try:
        given = records.parse(objects.get(layout.OWNER, _MOST_BYTES))
        # Keys of a later version are left out: its run is the owner as well.
        return records.read(Owner, {item.name: given[item.name] for item in fields(Owner) if item.name in given})
    except RemoteError as error:
        if error.kind == "missing":
            return None
        raise
    except (RecordError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{layout.OWNER} of {objects.address} does not name a run ({error}): delete it if the mirror is yours.",
            parameter="mirror",
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
