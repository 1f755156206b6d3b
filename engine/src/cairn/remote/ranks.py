"""Each rank uploads its own shard: they find each other by files next to the checkpoints, without a collective.

    rank 0                                        rank 3, which looks about once a second
    .mirror-ranks/STEM.json     the request  -->
    uploads its own shard                         .mirror-ranks/STEM.rank_00003.taken   touched while it uploads
                                             <--  .mirror-ranks/STEM.rank_00003.done
    uploads what no rank has taken, or what a rank does not go on with; then creates the record

The folder exists as long as rank 0 may ask for something.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cairn import opening, records
from cairn.errors import first_line
from cairn.records import RecordError
from cairn.remote.objects import Objects
from cairn.store import disk, names

log = logging.getLogger(__name__)

TAKE_S = 3.0
"""How long rank 0 waits for the others to begin, in seconds."""
STALE_S = 90.0
"""How long rank 0 waits for a sign of a rank that has begun: other machines may see times of files a minute later."""
IDLE_S = 30.0
"""How long another rank waits at its end for a request, in seconds: rank 0 may have been killed."""
POLL_S = 1.0
_POLL_DONE_S = 0.2
_TOUCH_S = 1.0


@dataclass(frozen=True)
class Shard:
    """A shard that is to be uploaded."""

    object: str
    """Name of its object."""
    file: str
    """Path below the checkpoint directory."""

    @property
    def name(self) -> str:
        """Name of its file: `rank_00001.ckpt`."""
        return self.file.rpartition("/")[2]


@dataclass(frozen=True)
class _Request:
    shards: tuple[Shard, ...]


class ShardUploads:
    """Lets the other ranks upload their shards. On rank 0.

    Args:
        checkpoints: The checkpoint directory, which all ranks see.
        now: A clock.
    """

    def __init__(self, checkpoints: Path, now: Callable[[], float] = time.monotonic) -> None:
        self.checkpoints = checkpoints
        self._folder, self._now = checkpoints / names.MIRROR_RANKS, now

    def open(self) -> None:
        """Let other ranks know that requests may follow."""
        with suppress(OSError):  # then rank 0 uploads everything
            disk.remove(self._folder)
            self._folder.mkdir(exist_ok=True)

    def close(self) -> None:
        """No requests follow."""
        with suppress(OSError):
            disk.remove(self._folder)

    def upload(
        self, stem: str, shards: Sequence[Shard], put: Callable[[Shard], None], pause: Callable[[float], None]
    ) -> None:
        """Have shards uploaded.

        Args:
            stem: What the names of the checkpoint begin with.
            shards: What is not uploaded yet.
            put: Uploads a shard from here.
            pause: Waits for some seconds; what it raises ends the upload.
        """
        request, began = self._folder / f"{stem}.json", self._now()
        is_shared = len(shards) > 1 and self._ask(request, shards)
        left, signs = list(shards), dict[str, tuple[object, float]]()
        try:
            if not is_shared or left[0].name == names.shard_name(0):
                put(left.pop(0))
            while left:
                for shard in list(left):
                    done, sign = self._look(stem, shard) if is_shared else (False, None)
                    if sign is not None and signs.get(shard.name, (None, 0.0))[0] != sign:
                        signs[shard.name] = sign, self._now()
                    waits_until = signs[shard.name][1] + STALE_S if shard.name in signs else began + TAKE_S
                    if done:
                        left.remove(shard)
                    elif not is_shared or self._now() >= waits_until:
                        put(shard)
                        left.remove(shard)
                if left:
                    pause(_POLL_DONE_S)
        finally:
            self._withdraw(request, stem)

    def _ask(self, request: Path, shards: Sequence[Shard]) -> bool:
        text = json.dumps(asdict(_Request(tuple(shards))))
        try:
            disk.put(request, text.encode())
        except OSError:
            return False
        return True

    def _look(self, stem: str, shard: Shard) -> tuple[bool, object]:
        """Return whether a rank has uploaded a shard, and a value that changes while it does."""
        if (self._folder / _marker(stem, shard, "done")).exists():
            return True, None
        try:
            return False, os.stat(self._folder / _marker(stem, shard, "taken")).st_mtime_ns
        except OSError:
            return False, None

    def _withdraw(self, request: Path, stem: str) -> None:
        with suppress(OSError):
            request.unlink(missing_ok=True)
            for path in self._folder.iterdir():
                if path.name.startswith(f"{stem}.rank_"):
                    path.unlink(missing_ok=True)


class Assistant:
    """Uploads the shards of one rank when rank 0 asks for it, in a thread of its own.

    Args:
        checkpoints: The checkpoint directory.
        rank: This rank.
        connect: Returns the objects of the mirror.
    """

    def __init__(self, checkpoints: Path, rank: int, connect: Callable[[], Objects]) -> None:
        self._checkpoints, self._folder = checkpoints, checkpoints / names.MIRROR_RANKS
        self._shard, self._connect = names.shard_name(rank), connect
        self._objects: Objects | None = None
        self._tried: set[str] = set()
        self._num_signs = 0
        """Grows while this rank uploads."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cairn-mirror-shards", daemon=True)
        self._thread.start()

    def close(self, limit_s: float) -> None:
        """Help until rank 0 has ended, or asks for nothing more.

        Args:
            limit_s: Maximum time to take, in seconds.
        """
        signs, changed = self._num_signs, time.monotonic()
        until = changed + limit_s
        while self._folder.exists() and (now := time.monotonic()) < min(until, changed + IDLE_S):
            if signs != self._num_signs:
                signs, changed = self._num_signs, now
            time.sleep(_POLL_DONE_S)
        self._ended.set()

    def _work(self) -> None:
        while not self._ended.wait(POLL_S):
            self.help()

    def help(self) -> None:
        """Upload what is asked for. An error is only logged for developers: rank 0 uploads the shard then."""
        try:
            requests = [path for path in self._folder.iterdir() if path.suffix == ".json"]
        except OSError:  # rank 0 has not begun, or has ended
            return
        for request in requests:
            try:
                found = records.read(_Request, records.parse(opening.read_bytes(request)))
            except (OSError, RecordError):
                continue
            for shard in found.shards:
                if shard.name == self._shard and shard.object not in self._tried:
                    self._tried.add(shard.object)
                    try:
                        self._upload(request, shard)
                    except Exception as error:
                        log.debug("%s was not uploaded by its rank: %s", shard.file, first_line(error))
                        with suppress(OSError):
                            (self._folder / _marker(request.stem, shard, "taken")).unlink(missing_ok=True)

    def _upload(self, request: Path, shard: Shard) -> None:
        taken, touched = self._folder / _marker(request.stem, shard, "taken"), time.monotonic()
        disk.put(taken, b"")
        self._objects = self._objects or self._connect()

        def beat(num_bytes: int) -> None:
            nonlocal touched
            self._num_signs += 1
            if time.monotonic() - touched >= _TOUCH_S:
                touched = time.monotonic()
                os.utime(taken)  # fails if rank 0 does not wait any more, which ends the upload

        self._objects.put_file(shard.object, self._checkpoints / shard.file, beat)
        disk.put(self._folder / _marker(request.stem, shard, "done"), b"")


def _marker(stem: str, shard: Shard, kind: str) -> str:
    return f"{stem}.{shard.name.removesuffix('.ckpt')}.{kind}"
