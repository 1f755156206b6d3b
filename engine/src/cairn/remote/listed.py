"""What a mirror holds, from one listing of its objects."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from cairn.errors import CheckpointError, CorruptCheckpointError, RemoteError
from cairn.remote import layout, parallel, record
from cairn.remote.layout import Stem
from cairn.remote.objects import Objects
from cairn.remote.record import Record

MOST_RECORD_BYTES = 2**26
"""Upper limit for a record that is read whole."""
_NUM_AT_ONCE = 16
_MOST_NAMED = 5


@dataclass(frozen=True)
class Listed:
    """The objects of one mirror."""

    sizes: dict[str, int]
    """Size in bytes of each object that this library has named, by its name below the address."""
    stems: tuple[Stem, ...] = ()
    """The checkpoints that have a record, oldest first."""
    others: tuple[str, ...] = field(default=())
    """Objects of other programs, which are never touched."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing of a mirror is at the address."""
        return not self.sizes

    def missing(self, found: Record) -> list[str]:
        """Return the objects of a record that are missing or have another size than it says."""
        return sorted(name for name, num_bytes in found.sizes().items() if self.sizes.get(name) != num_bytes)

    def missing_data(self, found: Record) -> list[str]:
        """Do as `missing`, for the checkpoint without the run files."""
        return [name for name, _, num_bytes in layout.data_of(found.saved) if self.sizes.get(name) != num_bytes]

    def unreferenced(self, records: Iterable[Record], needed: Iterable[str] = ()) -> list[str]:
        """Return the data and run files that no record needs: what an interrupted upload or deletion has left.

        Args:
            records: Records of the mirror. All must count, also one that cannot be read: do not call this then.
            needed: What other records need.
        """
        found = self.sizes.keys() - {*needed} - {name for item in records for name in item.objects()}
        return sorted(name for name in found if layout.is_part(name) or layout.is_data(name))


def nothing_at(objects: Objects, found: Listed) -> str:
    """Return the message that an address does not lead to a run, with runs that are below it."""
    ends = f"/{layout.OWNER}"
    runs = [name.removesuffix(ends) for name in found.others if name.endswith(ends)]
    below = ", ".join(f"{objects.address}/{name}" for name in runs[:_MOST_NAMED])
    more = f", and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    cure = f"Below it are: {below}{more}." if runs else "Check the address."
    return f"There is no checkpoint of a run at {objects.address}. {cure}"


def look(objects: Objects) -> Listed:
    """List a mirror.

    Raises:
        RemoteError: The store cannot be used.
    """
    sizes, others = dict[str, int](), list[str]()
    for name, num_bytes in objects.list():
        if layout.is_of_mirror(name):
            sizes[name] = num_bytes
        else:
            others.append(name)
    found = [parsed[0] for name in sizes if (parsed := layout.parse(name)) is not None and parsed[1]]
    return Listed(sizes, tuple(sorted(found)), tuple(sorted(others)))


def read_record(objects: Objects, stem: Stem) -> Record:
    """Read the record of a checkpoint.

    Raises:
        CheckpointError: It is gone or damaged, or a later version of Cairn wrote it.
        RemoteError: The store cannot be used.
    """
    try:
        data = objects.get(stem.record, MOST_RECORD_BYTES)
    except RemoteError as error:
        if error.kind != "missing":
            raise
        raise CorruptCheckpointError("its record was deleted from the mirror") from error
    return record.load(data, stem)


def read_records(objects: Objects, listed: Listed) -> tuple[list[Record], dict[Stem, CheckpointError]]:
    """Read all records.

    Returns:
        Those that can be read, oldest first; and why the others cannot.

    Raises:
        RemoteError: The store cannot be used.
    """

    def read(stem: Stem, stopped: threading.Event) -> Record | CheckpointError:
        try:
            return read_record(objects, stem)
        except CheckpointError as error:
            return error

    made = parallel.each(read, listed.stems, _NUM_AT_ONCE)  # a mirror may keep thousands
    found = dict(zip(listed.stems, made, strict=True))
    good = [item for item in found.values() if isinstance(item, Record)]
    return good, {stem: item for stem, item in found.items() if isinstance(item, CheckpointError)}
