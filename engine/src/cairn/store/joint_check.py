"""Verify the shards of a checkpoint on all processes that a launcher has started together, before a run is resumed.

    process 0    .verify.json      names the checkpoint            verifies the shards 0, P, 2P, ...
    process k    .verify-k.json    what is damaged among these     verifies the shards k, P + k, ...
    process 0    collects the results; a part whose result does not come in time, it verifies itself

So the outcome, and what is rejected, is that of one process which reads everything. The processes are not connected
yet, and find these files in the run directory, where process 0 announces its decisions as well.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cairn import opening, records
from cairn.errors import CheckpointError
from cairn.records import RecordError
from cairn.store import catalog, shards
from cairn.types import Saved

_START_S = 10.0
"""Another process may still be starting for this long, in seconds."""
_POLL_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What process 0 asks the others to verify."""

    start: str
    """Name of this start, which all of its processes know."""
    path: str
    digest: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Answers to an earlier request have another one."""


@dataclass(frozen=True)
class Result:
    """What a process has found in its part."""

    id: str
    """Id of the request."""
    damage: Mapping[str, str] = field(default_factory=dict)
    """A sentence for each damaged shard, by its name."""


class JointCheck:
    """One process of those that verify a checkpoint together.

    Args:
        folder: The run directory.
        number: Number of this process.
        num_processes: How many there are.
        start: Name of this start, which all of its processes know.
    """

    def __init__(self, folder: Path, number: int, num_processes: int, start: str) -> None:
        self._folder, self._number, self._num, self._start = folder, number, num_processes, start
        self._done = ""

    def verify(self, path: Path, saved: Saved) -> None:
        """Compare the bytes of a checkpoint with its manifest; called by process 0.

        Args:
            path: The file, or the directory of shards.
            saved: What its manifest says.

        Raises:
            CorruptCheckpointError: They differ, or cannot be read.
        """
        others = range(1, min(self._num, len(saved.shards)))
        if not others:
            catalog.verify(path, saved)
            return
        request = Request(self._start, str(path), saved.digest)
        try:
            with suppress(OSError):  # no process helps, then
                _put(self._folder / _REQUEST, request)
            began = time.monotonic()
            damage = self._own_damage(path, saved, 0)
            now = time.monotonic()
            until = now + patience_s(now - began, len(others))
            for rank in others:
                found = self._result(rank, request.id, until)
                damage |= self._own_damage(path, saved, rank) if found is None else found
        finally:
            for name in (_REQUEST, *map(_result_name, others)):
                with suppress(OSError):
                    os.unlink(self._folder / name)
        shards.refuse(damage)

    def help(self) -> None:
        """Verify the part of this process, if process 0 asks for it; called by the others while they wait."""
        request = _read(Request, self._folder / _REQUEST)
        if request is None or request.start != self._start or request.id == self._done:
            return
        try:
            saved = catalog.describe(Path(request.path))
        except CheckpointError:  # process 0 finds out itself
            return
        if saved.digest == request.digest and saved.shards[self._number :: self._num]:
            self._done = request.id
            damage = self._own_damage(Path(request.path), saved, self._number)
            if _read(Request, self._folder / _REQUEST) != request:
                return  # process 0 did not wait for it
            with suppress(OSError):  # process 0 does it, then
                _put(self._folder / _result_name(self._number), Result(request.id, damage))

    def _own_damage(self, path: Path, saved: Saved, number: int) -> dict[str, str]:
        return shards.damage(path, saved.shards[number :: self._num])

    def _result(self, rank: int, request: str, until: float) -> Mapping[str, str] | None:
        while True:
            found = _read(Result, self._folder / _result_name(rank))
            if found is not None and found.id == request:
                return found.damage
            if time.monotonic() >= until:
                return None
            time.sleep(_POLL_S)


def patience_s(own_s: float, num_others: int) -> float:
    """Return how long process 0 waits for the other parts, which it could verify itself, in seconds.

    Args:
        own_s: How long its own part has taken, in seconds.
        num_others: Number of other parts.
    """
    return 2 * own_s + min(_START_S, num_others * own_s)


_REQUEST = ".verify.json"


def _result_name(number: int) -> str:
    return f".verify-{number}.json"


def _put(path: Path, record: Any) -> None:
    # Renamed into place: what reads it never sees half of it. Nothing has to survive a power cut.
    beside = path.with_suffix(".tmp")
    with opening.new_file(beside) as file:
        file.write(json.dumps(asdict(record)).encode())
    beside.replace(path)


def _read(kind: type[T], path: Path) -> T | None:
    try:
        return records.read(kind, records.parse(opening.read_bytes(path)))
    except (OSError, RecordError):
        return None
