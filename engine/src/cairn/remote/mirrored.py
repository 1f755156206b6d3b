"""What a mirror holds, as the process that uploads to it knows: records, and how many of them need each object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from cairn.remote import layout
from cairn.remote.layout import Stem
from cairn.remote.listed import Listed
from cairn.remote.record import Record
from cairn.types import Saved


class Mirrored:
    """The records and objects of a mirror. For one thread.

    Attributes:
        saved: The checkpoints that have a record.
        damaged: Those whose record cannot be read.
        pointed: Where the pointers point to, by the name of the link, as far as this process has written them.
    """

    def __init__(self) -> None:
        self.saved: dict[Stem, Saved] = {}
        self.damaged: set[Stem] = set()
        self.pointed: dict[str, Stem] = {}
        self._needed: dict[Stem, frozenset[str]] = {}
        self._num_users: Counter[str] = Counter()
        self._there: set[str] = set()

    def take(self, listed: Listed, records: Iterable[Record], damaged: Collection[Stem]) -> None:
        """Replace what is known by a listing."""
        self.saved, self.damaged, self._needed = {}, set(damaged), {}
        self._num_users, self._there = Counter(), set(listed.sizes)
        for record in records:
            self.add(record)

    def has(self, name: str) -> bool:
        """Whether an object is there."""
        return name in self._there

    def uploaded(self, name: str) -> None:
        """Take note of a new object."""
        self._there.add(name)

    def add(self, record: Record) -> None:
        """Take note of a record and what it needs."""
        if record.stem in self.saved:
            return
        needed = frozenset(record.objects())
        self.saved[record.stem], self._needed[record.stem] = record.saved, needed
        self.damaged.discard(record.stem)
        self._num_users.update(needed)
        self._there |= needed

    def replace(self, record: Record) -> None:
        """Take note that a record names other run files now; `unreferenced` finds those that it does not need."""
        self._release(record.stem)
        self.saved.pop(record.stem, None)
        self.add(record)

    def needed_by(self, stem: Stem) -> list[str]:
        """The objects that only this checkpoint needs, besides its record."""
        if stem in self._needed:
            found = {name for name in self._needed[stem] if self._num_users[name] == 1}
        else:
            found = {name for name in self._there if name == stem.data or name.startswith(f"{stem.data}/")}
        return sorted(found - {stem.record})

    def remove(self, stem: Stem, names: Iterable[str]) -> None:
        """Take note that a record and the objects that only it needed are gone."""
        self._release(stem)
        self.saved.pop(stem, None)
        self.damaged.discard(stem)
        self._there -= {stem.record, *names}
        self.pointed = {link: target for link, target in self.pointed.items() if target != stem}

    def _release(self, stem: Stem) -> None:
        for name in self._needed.pop(stem, ()):
            self._num_users[name] -= 1
            if not self._num_users[name]:
                del self._num_users[name]

    def unreferenced(self, listed: Listed) -> list[str]:
        """The data and run files in a listing that no record needs: what a kill has left of an upload or deletion."""
        found = []
        for name in listed.sizes:
            parsed = layout.parse(name)
            is_data = parsed is not None and not parsed[1]
            if (is_data or layout.is_part(name)) and not self._num_users[name]:
                found.append(name)
        return sorted(found)
