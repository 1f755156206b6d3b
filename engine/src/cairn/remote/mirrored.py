"""What a mirror holds, as the process that uploads to it knows: records, and how many of them need each object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cairn.errors import CheckpointError, NewerFormatError
from cairn.remote.layout import Stem
from cairn.remote.listed import Listed
from cairn.remote.record import Record
from cairn.types import Saved


class Mirrored:
    """The records and objects of a mirror. For one thread.

    Attributes:
        saved: The checkpoints that have a record, and all that it names.
        damaged: Those whose record cannot be read, or lacks what it names.
        pointed: Where the pointers point to, by the name of the link, as far as this process has written them.
    """

    def __init__(self) -> None:
        self.saved: dict[Stem, Saved] = {}
        self.damaged: set[Stem] = set()
        self.pointed: dict[str, Stem] = {}
        self._needed: dict[Stem, frozenset[str]] = {}
        self._num_users: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}

    @property
    def needed(self) -> Iterable[str]:
        """Names of the objects that a record needs."""
        return self._num_users.keys()

    def take(self, listed: Listed, records: Sequence[Record], bad: Mapping[Stem, CheckpointError]) -> Sequence[Record]:
        """Replace what is known by a listing.

        Args:
            listed: The listing.
            records: Its records.
            bad: Why others cannot be read. Those of a later version of Cairn are left alone.

        Returns:
            The records that have all that they name.
        """
        whole = [item for item in records if not listed.missing(item)]
        self.saved, self._needed, self._num_users, self._sizes = {}, {}, Counter(), dict(listed.sizes)
        for record in whole:
            self.add(record)
        broken = {stem for stem, why in bad.items() if not isinstance(why, NewerFormatError)}
        self.damaged = broken | ({item.stem for item in records} - self.saved.keys())
        return whole

    def has(self, name: str, num_bytes: int) -> bool:
        """Whether an object is there, and has this size."""
        return self._sizes.get(name) == num_bytes

    def has_all(self, record: Record) -> bool:
        """Whether everything that a record names is there."""
        return all(self.has(name, num_bytes) for name, num_bytes in record.sizes().items())

    def uploaded(self, name: str, num_bytes: int) -> None:
        """Take note of a new object."""
        self._sizes[name] = num_bytes

    def add(self, record: Record) -> None:
        """Take note of a record and what it needs."""
        if record.stem in self.saved:
            return
        needed = frozenset(record.objects())
        self.saved[record.stem], self._needed[record.stem] = record.saved, needed
        self.damaged.discard(record.stem)
        self._num_users.update(needed)
        self._sizes |= record.sizes()

    def replace(self, record: Record) -> None:
        """Take note that a record names other run files now; `Listed.unreferenced` finds those that it leaves."""
        self._release(record.stem)
        self.saved.pop(record.stem, None)
        self.add(record)

    def needed_by(self, stem: Stem) -> list[str]:
        """The objects that only this checkpoint needs, besides its record."""
        if stem in self._needed:
            found = {name for name in self._needed[stem] if self._num_users[name] == 1}
        else:
            found = {name for name in self._sizes if name == stem.data or name.startswith(f"{stem.data}/")}
        return sorted(found - {stem.record})

    def forget(self, names: Iterable[str]) -> None:
        """Take note that objects are gone."""
        for name in names:
            self._sizes.pop(name, None)

    def remove(self, stem: Stem) -> None:
        """Take note that a record is gone."""
        self._release(stem)
        self.saved.pop(stem, None)
        self.damaged.discard(stem)
        self.pointed = {link: target for link, target in self.pointed.items() if target != stem}

    def _release(self, stem: Stem) -> None:
        for name in self._needed.pop(stem, ()):
            self._num_users[name] -= 1
            if not self._num_users[name]:
                del self._num_users[name]
