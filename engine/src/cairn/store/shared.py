"""Whether all processes of a run see one and the same directory: several nodes may each have a local disk there.

    rank 0     writes an empty file with a random name    .shared-3f9c...tmp
    each rank  looks for this name in its directory       a random name was never looked up, so no cache denies it

What an interrupted start leaves is a temporary file, which the next start removes.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cairn import opening
from cairn.store import names
from cairn.store.hang_reports import name_ranks

PATIENCE_S = 60.0
"""How long to look for the file. NFS may deny for a minute (`acdirmax`) that a directory exists that it did not find
before."""
_POLL_S = 0.1


@dataclass(frozen=True)
class Process:
    """A process of the run, in the words of a message."""

    rank: int
    host: str


def announce(directory: Path) -> str:
    """Write the file, and return its name.

    Raises:
        OSError: It cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = names.shared_name(secrets.token_hex(8))
    with opening.new_file(directory / name):
        pass
    return name


def withdraw(directory: Path, name: str) -> None:
    """Remove the file, after all ranks have looked for it."""
    with suppress(OSError):
        os.unlink(directory / name)


def sees(directory: Path, name: str, patience_s: float = PATIENCE_S) -> bool:
    """Return whether this process sees the file.

    Args:
        directory: Its directory.
        name: What `announce` has returned in another process.
        patience_s: How long to look for it, in seconds.
    """
    until = time.monotonic() + patience_s
    while not (directory / name).exists():
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_S)
    return True


def why_not(directory: Path, writer: Process, blind: Sequence[Process]) -> str:
    """Return a sentence that names the processes that do not see what another one has written.

    Args:
        directory: The directory.
        writer: The process that has written.
        blind: The others, at least one.
    """
    by_host = groupby(sorted(blind, key=lambda process: (process.host, process.rank)), key=lambda each: each.host)
    named = ", ".join(f"{name_ranks([process.rank for process in group])} on {host}" for host, group in by_host)
    return (
        f"directory={directory} is not the same for all processes: what rank {writer.rank} on {writer.host} writes "
        f"there is not seen by {named}."
    )
