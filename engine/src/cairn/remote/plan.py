"""What a mirror should hold of a run's checkpoints, what it holds, and the next steps from the one to the other.

Pure: facts go in, operations come out. The uploader puts the result of each into `actual` and asks again:

    wanted  (kept, waiting, links, ...)          \\
                                                    reconcile -> Upload, Delete, Point
    actual  (the records of the mirror)           /                 |
        ^------------------------ result <--------------------------+

The best checkpoint is uploaded first, because a run that goes on from the newest one cannot compute it again; then the
newest, which is worth most after an outage. At the end of a run the newest is first: a signal may leave no time for
another. Nothing is deleted before a newer checkpoint that stays is there, and the best one.
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

    @property
    def best(self) -> Stem | None:
        """The best checkpoint of the run; None: there is none."""
        found = self.kept.get(self.links.get(names.BEST) or "")
        return layout.stem_of(found) if found is not None else None

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
        actual: The checkpoints that have a record in the mirror, and all that it names.
        damaged: Those whose record cannot be read, or lacks what it names.
        pointed: Where the pointers point to, by the name of the link.

    Returns:
        No operation if the mirror holds what it should hold.
    """
    goal = _goal(wanted, actual, damaged)
    deleted = _to_delete(wanted, actual, damaged, goal)
    stays = actual.keys() - {*deleted, *wanted.abandoned}
    return [
        *map(Upload, _missing(wanted, actual, goal)),
        *(Point(link, stem) for link, stem in _targets(wanted, stays) if pointed.get(link) != stem),
        *map(Delete, deleted),
    ]


def newer(wanted: Wanted, stems: Collection[Stem]) -> Stem | None:
    """The newest of some checkpoints, if it lies after the one that this start was resumed from, and is not here."""
    here, begin = {layout.stem_of(saved) for saved in wanted.kept.values()}, wanted.resumed_from
    other = [stem for stem in stems if stem not in here and (begin is None or stem.name != begin.name)]
    return max((stem for stem in other if begin is None or begin < stem), default=None)


def missing(wanted: Wanted, actual: Mapping[Stem, Saved]) -> list[Saved]:
    """The checkpoints that are left to upload, the most urgent one first; see `reconcile`."""
    return _missing(wanted, actual, _goal(wanted, actual))


def _missing(wanted: Wanted, actual: Mapping[Stem, Saved], goal: Collection[Stem]) -> list[Saved]:
    # Others would be deleted again: the mirror may have newer ones than those whose bytes are here.
    found = (saved for stem, saved in wanted.to_upload().items() if stem in goal and stem not in actual)
    return sorted(found, key=wanted.urgency, reverse=True)


def _goal(wanted: Wanted, actual: Mapping[Stem, Saved], damaged: Collection[Stem] = ()) -> set[Stem]:
    """The checkpoints that the mirror should hold in the end, of those that it has and those whose bytes are here.

    The data of a damaged one may be intact: it is deleted when an intact one would be, and takes the place of no other.
    """
    keep, here = wanted.settings.keep, {layout.stem_of(saved) for saved in wanted.kept.values()}
    stays = (stem for stem in actual if stem in here or not (stem in wanted.abandoned or stem.name in wanted.kept))
    pool = {**{stem: actual[stem] for stem in stays}, **wanted.to_upload()}
    if keep is None:
        # What the rules of the run keep was fetched at the start, if it was not here: all of it is in the directory.
        found = pool.keys() & here
    elif keep == ALL:
        found = {*pool, *damaged}
    else:
        newest = heapq.nlargest(keep, pool.items(), key=lambda item: (item[1].position, item[0] in here))
        linked = {layout.stem_of(wanted.kept[name]) for name in wanted.links.values() if name and name in wanted.kept}
        oldest = min(stem for stem, _ in newest) if len(newest) == keep else None
        found = {stem for stem, _ in newest} | (linked & pool.keys())
        found |= {stem for stem in damaged if oldest is None or oldest < stem}
    if wanted.resumed_from is not None and wanted.resumed_from in actual:
        found.add(wanted.resumed_from)
    return found


def _to_delete(
    wanted: Wanted, actual: Mapping[Stem, Saved], damaged: Collection[Stem], goal: set[Stem]
) -> Sequence[Stem]:
    held = goal & actual.keys()
    newest = max(held, default=None)
    if newest is None or (wanted.best is not None and wanted.best not in actual):
        return []
    # A newer one stays, if nothing took its place: with the best one alone in `held`, the mirror would lose its newest
    # before the successor is there.
    replaced = {stem.name for stem in held}
    # A past that this start does not continue goes when the new past has a checkpoint in the mirror.
    begin = wanted.resumed_from
    is_over = any(stem in actual and (begin is None or begin < stem) for stem in wanted.to_upload())
    past = {*wanted.abandoned, *damaged} if is_over else set()
    others = {*actual, *damaged} - goal
    return sorted(stem for stem in others if stem < newest or stem.name in replaced or stem in past)


def _targets(wanted: Wanted, stays: Collection[Stem]) -> list[tuple[str, Stem]]:
    found = [(names.LAST, max(stays))] if stays else []
    if wanted.best is not None and wanted.best in stays:
        found.append((names.BEST, wanted.best))
    return found
