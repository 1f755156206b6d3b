"""What a mirror should hold of a run's checkpoints, what it holds, and the next steps from the one to the other.

Pure: facts go in, operations come out. The uploader puts the result of each into `actual` and asks again:

    wanted  (kept, waiting, links, ...)          \\
                                                    reconcile -> Upload, Delete, Point
    actual  (the records of the mirror)           /                 |
        ^------------------------ result <--------------------------+

The best checkpoint is uploaded first, because a run that goes on from the newest one cannot compute it again; then the
newest, which is worth most after an outage. At the end of a run the newest is first: a signal may leave no time for
another. Nothing is deleted before a newer checkpoint that stays is there.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cairn.remote import layout
from cairn.remote.layout import Stem
from cairn.remote.settings import ALL, MirrorSettings
from cairn.store import names
from cairn.store.listener import Links
from cairn.types import Position, Saved


@dataclass(frozen=True)
class Wanted:
    """What is known about the run."""

    settings: MirrorSettings
    kept: Mapping[str, Saved] = field(default_factory=dict)
    """The checkpoints in the directory, by file name."""
    waiting: Mapping[str, Saved] = field(default_factory=dict)
    """Checkpoints whose bytes are in the outbox, by file name."""
    links: Links = field(default_factory=dict)
    abandoned: Collection[Stem] = frozenset()
    """What lies after the checkpoint that this start was resumed from, and is not in the directory."""
    resumed_from: Stem | None = None
    """Never deleted by this start."""
    ends: bool = False
    """The run ends or stops: its newest checkpoint is mirrored in any case."""

    def to_upload(self) -> dict[Stem, Saved]:
        """The checkpoints that the mirror should hold, as far as their bytes are here."""
        return self._to_upload

    def wants(self, saved: Saved) -> bool:
        """Whether the mirror should hold a checkpoint whose bytes are here."""
        if not self.settings.selects(saved, self.links, self.ends):
            return False
        if self.settings.keep is None:
            return saved.name in self.kept
        return self.settings.keep == ALL or saved.position >= self._oldest or self._is_linked(saved)

    def urgency(self, saved: Saved) -> tuple[bool, Position]:
        """What is uploaded first has the largest one."""
        return not self.ends and self.links.get(names.BEST) == saved.name, saved.position

    @cached_property
    def _to_upload(self) -> dict[Stem, Saved]:
        here = {**self.waiting, **self.kept}.values()
        return {layout.stem_of(saved): saved for saved in here if self.wants(saved)}

    @cached_property
    def _oldest(self) -> Position:
        """Position of the oldest of the newest ones that the mirror keeps."""
        here = {**self.waiting, **self.kept}.values()
        found = (saved.position for saved in here if self.settings.selects(saved, self.links, self.ends))
        return min(heapq.nlargest(self.settings.keep or 1, found))

    def _is_linked(self, saved: Saved) -> bool:
        is_best = self.links.get(names.BEST) == saved.name
        return is_best or (self.ends and self.links.get(names.LAST) == saved.name)


@dataclass(frozen=True)
class Upload:
    """Upload a checkpoint and create its record."""

    saved: Saved


@dataclass(frozen=True)
class Delete:
    """Delete a record, and what only it needs."""

    stem: Stem


@dataclass(frozen=True)
class Point:
    """Write a pointer: the object that says where `last.ckpt` or `best.ckpt` points to."""

    link: str
    stem: Stem


Operation = Upload | Delete | Point


def reconcile(
    wanted: Wanted, actual: Mapping[Stem, Saved], damaged: Collection[Stem] = (), pointed: Mapping[str, Stem] = {}
) -> list[Operation]:
    """The operations that are left to do, in the order in which to do them.

    Args:
        wanted: What is known about the run.
        actual: The checkpoints that have a record in the mirror.
        damaged: Those whose record cannot be read.
        pointed: Where the pointers point to, by the name of the link.

    Returns:
        No operation if the mirror holds what it should hold.
    """
    uploads = wanted.to_upload()
    lacking = sorted((saved for stem, saved in uploads.items() if stem not in actual), key=wanted.urgency, reverse=True)
    held = held_by(wanted, actual)
    return [
        *map(Upload, lacking),
        *(Point(link, stem) for link, stem in _targets(wanted, actual, held) if pointed.get(link) != stem),
        *map(Delete, _to_delete(wanted, actual, damaged, held)),
    ]


def newer(wanted: Wanted, stems: Collection[Stem]) -> Stem | None:
    """The newest of some checkpoints, if it lies after the one that this start was resumed from, and is not here."""
    here, begin = {layout.stem_of(saved) for saved in wanted.kept.values()}, wanted.resumed_from
    other = [stem for stem in stems if stem not in here and (begin is None or stem.name != begin.name)]
    return max((stem for stem in other if begin is None or begin < stem), default=None)


def held_by(wanted: Wanted, actual: Mapping[Stem, Saved]) -> set[Stem]:
    """The checkpoints that the mirror should hold, as far as it holds them."""
    keep, here = wanted.settings.keep, {layout.stem_of(saved) for saved in wanted.kept.values()}
    uploads = wanted.to_upload()
    valid = {stem: saved for stem, saved in actual.items() if stem in here or stem not in wanted.abandoned}
    if keep is None:
        # What the rules of the run keep was fetched at the start, if it was not here: all of it is in the directory.
        found = set(valid) & here
    elif keep == ALL:
        found = set(valid)
    else:
        pool = sorted({**valid, **uploads}.items(), key=lambda item: item[1].position)
        found = {stem for stem, _ in pool[-keep:]}
        found |= {layout.stem_of(wanted.kept[name]) for name in wanted.links.values() if name and name in wanted.kept}
    if wanted.resumed_from is not None:
        found.add(wanted.resumed_from)
    return found & actual.keys()


def _to_delete(
    wanted: Wanted, actual: Mapping[Stem, Saved], damaged: Collection[Stem], held: Collection[Stem]
) -> Sequence[Stem]:
    newest = max(held, default=None)
    if newest is None:
        return []
    # What lies after everything that stays is left of a past that this start does not continue: it goes when the new
    # past has a checkpoint there.
    begin = wanted.resumed_from
    is_over = any(stem in actual and (begin is None or begin < stem) for stem in wanted.to_upload())
    found = [stem for stem in (*actual, *damaged) if stem not in held and (stem < newest or is_over)]
    return sorted(found)


def _targets(wanted: Wanted, actual: Mapping[Stem, Saved], held: Collection[Stem]) -> list[tuple[str, Stem]]:
    found = [(names.LAST, max(held))] if held else []
    best = wanted.kept.get(wanted.links.get(names.BEST) or "")
    if best is not None and (stem := layout.stem_of(best)) in actual:
        found.append((names.BEST, stem))
    return found
