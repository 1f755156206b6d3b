"""Names of the objects of one mirror: every name is built and parsed here, and nowhere else.

    owner.json                                                the run that the address belongs to
    attempt.json                                              the process start that uploads
    checkpoints/epoch_000_batch_000150.0123456789ab.ckpt      a checkpoint: an object, or a folder of shards
    checkpoints/epoch_000_batch_000150.0123456789ab.json      its record, created last: without one it does not exist
    checkpoints/last.json  checkpoints/best.json              pointers for people; nothing is decided by them
    files/0123456789ab                                        a run file, or a part of one

Names hold digests of the contents, so no object is ever overwritten by other contents. Exceptions are the pointers,
`attempt.json`, a damaged record, and at the end of a run the list of run files in its newest record.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cairn.store import names
from cairn.types import Saved

OWNER = "owner.json"
ATTEMPT = "attempt.json"
LAST = "checkpoints/last.json"
BEST = "checkpoints/best.json"
POINTERS = {names.LAST: LAST, names.BEST: BEST}
"""Objects that say what the local links point to, by the name of the link."""
CHECKPOINTS = "checkpoints/"
FILES = "files/"
_DIGITS = 12
_DIGEST = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


@dataclass(frozen=True)
class Stem:
    """What the names of all objects of one mirrored checkpoint begin with."""

    name: str
    """Name of the checkpoint: `epoch_000_batch_000150.ckpt`."""
    digest: str
    """The first digits of its digest."""

    def __lt__(self, other: Stem) -> bool:
        """Order by position."""
        return self._order < other._order

    @cached_property  # a mirror may hold thousands, which are compared at each save
    def _order(self) -> tuple[tuple[int, int], str]:
        return names.parse_name(self.name) or (0, 0), self.digest

    @property
    def text(self) -> str:
        """What the names begin with, without their folder."""
        return f"{self.name.removesuffix('.ckpt')}.{self.digest}"

    @property
    def record(self) -> str:
        """Name of the record, whose creation commits the mirrored checkpoint."""
        return f"{CHECKPOINTS}{self.text}.json"

    @property
    def data(self) -> str:
        """Name of the checkpoint itself: an object, or what the names of its shards begin with, before a slash."""
        return f"{CHECKPOINTS}{self.text}.ckpt"

    def shard(self, name: str) -> str:
        """Name of a shard: `rank_00001.ckpt` below `data`."""
        return f"{self.data}/{name}"


def stem_of(saved: Saved) -> Stem:
    """Return the stem of a committed checkpoint."""
    return _stem(saved.name, saved.digest)


@lru_cache(2**14)
def _stem(name: str, digest: str) -> Stem:
    return Stem(name, short(digest))


def pointer(stem: Stem) -> bytes:
    """Return the contents of a pointer to a checkpoint."""
    return (json.dumps({"name": stem.name, "digest": stem.digest, "record": stem.record}) + "\n").encode()


def data_of(saved: Saved) -> list[tuple[str, str, int]]:
    """Return the data objects of a checkpoint.

    Returns:
        For each its name, its path below the checkpoint directory, and its size in bytes.
    """
    stem = stem_of(saved)
    if saved.shards:
        return [(stem.shard(item.name), f"{saved.name}/{item.name}", item.num_bytes) for item in saved.shards]
    return [(stem.data, saved.name, saved.num_bytes)]


def part_name(digest: str) -> str:
    """Name of the object of a run file or of a part of one.

    Args:
        digest: SHA-256 of its bytes, in hexadecimal digits.
    """
    return FILES + short(digest)


def short(digest: str) -> str:
    """Return the digits of a digest that are in names: the first twelve after the kind, as in `sha256:0123...`."""
    return digest.rpartition(":")[2][:_DIGITS]


def parse(name: str) -> tuple[Stem, bool] | None:
    """Return the stem in the name of an object, and whether the object is the record; None for any other object."""
    if not name.startswith(CHECKPOINTS):
        return None
    first, slash, shard = name.removeprefix(CHECKPOINTS).partition("/")
    is_record = first.endswith(".json")
    if is_record == first.endswith(".ckpt") or (slash and (is_record or names.shard_rank(shard) is None)):
        return None
    checkpoint, _, digest = first[: -len(".json")].rpartition(".")
    checkpoint += ".ckpt"
    if names.parse_name(checkpoint) is None or not _DIGEST.fullmatch(digest):
        return None
    return Stem(checkpoint, digest), is_record


def is_part(name: str) -> bool:
    """Whether an object is a run file or a part of one."""
    return name.startswith(FILES) and _DIGEST.fullmatch(name.removeprefix(FILES)) is not None


def is_data(name: str) -> bool:
    """Whether an object is a checkpoint or a shard of one, and not a record."""
    found = parse(name)
    return found is not None and not found[1]


def is_of_mirror(name: str) -> bool:
    """Whether an object has a name that this library gives: only such objects are ever deleted."""
    return name in (OWNER, ATTEMPT, LAST, BEST) or is_part(name) or parse(name) is not None
