"""What this run has committed and keeps: after each commit the links move first, and only then is something deleted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cairn import units
from cairn.errors import ConfigError
from cairn.policy import keep
from cairn.store import commit, disk, names
from cairn.store.catalog import Catalog
from cairn.store.commit import CommitPlan, Committed
from cairn.store.resume import ResumePoint
from cairn.types import AnyDraft, Draft, Mode, Saved

log = logging.getLogger(__name__)


class History:
    """The kept checkpoints of one run, oldest first. Only rank 0 has any.

    Args:
        directory: where they are.
        rules: what to keep.
        mode: whether a lower or a higher score is better; None: there is no best.

    Saves may be committed in another thread than the one that decides on them. The commit thread calls `plan_commit`
    and `resolve_pending`; the deciding thread calls `add_pending` and `with_pending`.
    """

    def __init__(self, directory: Path, rules: Iterable[keep.Rule], mode: Mode | None) -> None:
        self.directory, self.rules, self.mode = directory, list(rules), mode
        self.saved: list[Saved] = []
        self.deleted: list[Saved] = []
        """What was deleted when the run was opened."""
        self._pending: list[Draft] = []
        self._lock = threading.Lock()
        self._catalog = Catalog(directory)
        self._names_to_delete: list[str] = []

    @property
    def newest(self) -> Saved | None:
        """What `last.ckpt` is."""
        saved = self.saved  # another thread may be about to exchange it
        return saved[-1] if saved else None

    @property
    def best(self) -> Saved | None:
        """What `best.ckpt` is."""
        return keep.best_of(self.saved, self.mode) if self.mode else None

    @property
    def links(self) -> dict[str, str | None]:
        """Where each link should point to."""
        return links(self.saved, self.mode)

    def take_over(self, run: str, plan: ResumePoint) -> None:
        """Take over what `run` had committed when it was where `plan` goes on; clear away what dead writers have left.

        Raises:
            ConfigError: the directory holds checkpoints of another run, which are not ours to delete.
            SaveError: as in `retain`.
        """
        committed, rejected = self._catalog.all()
        if others := {item.run for item in committed} - {run}:
            raise ConfigError(
                f"checkpoint.dirpath={self.directory} holds checkpoints of another run ({', '.join(others)}): give "
                f"each run a directory of its own."
            )
        for path in self._catalog.leftovers():
            log.info("Removed %s: a save or a deletion was cut off there.", path.name)
            disk.remove(path)
        here = plan.saved.position if plan.saved else None
        abandoned = {item.path.name for item in plan.rejected}
        for item in rejected:
            if item.path.name not in abandoned:  # older: it may have been good once, and is not in the way
                log.warning("Left alone, and not used: %s, because %s.", item.path.name, item.why)
        ours = [item for item in committed if here is not None and item.position <= here]
        # What is newer than where the run goes on is gone when something better is there: nothing is deleted before its
        # successor is committed. A first save that was cut off never was committed, and goes at once: two of them would
        # look like a run that has lost all its manifests.
        if not committed:
            self._names_to_delete = sorted(abandoned)
        kept = keep.survivors(self.rules, ours, self.mode)
        self.deleted = [item for item in ours if item not in kept]
        self.retain(kept, self.deleted)
        self._names_to_delete = sorted(abandoned) if committed else []

    def check_writable(self) -> None:
        """Make the directory, and try to write there.

        Raises:
            ConfigError: that is not possible.
        """
        if why := disk.why_unwritable(self.directory):
            raise ConfigError(f"checkpoint.dirpath={self.directory} cannot be written: {why}.")

    def check_space(self, num_bytes: int) -> None:
        """Say so if checkpoints of about `num_bytes` each will not fit.

        Raises:
            ConfigError: not even the first does.
        """
        first, second = keep.peak_bytes(self.rules, self.saved, self.mode, num_bytes, count=2)
        free = disk.free_bytes(self.directory)
        there = f"{units.size(free)} are free in checkpoint.dirpath={self.directory}"
        if first > free:
            raise ConfigError(
                f"A checkpoint of this run needs about {units.size(num_bytes)}, and only {there}: make room, or choose "
                f"another directory."
            )
        if second > free:
            log.warning(
                "A checkpoint of this run needs about %s, and %s: there will be no room for a second one beside the "
                "first, which stays until the second is whole.",
                units.size(num_bytes),
                there,
            )

    def add_pending(self, draft: Draft) -> None:
        """A checkpoint is on its way: from now on decisions are made as if it was there."""
        with self._lock:
            self._pending.append(draft)

    @property
    def with_pending(self) -> list[Draft]:
        """What will be kept when everything that is on its way is committed."""
        with self._lock:
            found: list[Draft] = list(self.saved)
            for draft in self._pending:
                coming = replace(draft, number=_next_number(found))
                found = keep.survivors(self.rules, [*_others(found, coming), coming], self.mode)
            return found

    def plan_commit(self, draft: Draft, provenance: Mapping[str, Any]) -> CommitPlan:
        """What to do for the checkpoint that is next to be written: delete to make room, write, move links, delete."""
        others = self._others_still_there(draft)
        draft = replace(draft, number=_next_number(others))
        linked = {self._catalog.linked(link) for link in (names.LAST, names.BEST)}  # also one that could not be moved
        way = keep.to_make_room(self.rules, others, draft, self.mode)
        make_room = [item.name for item in way if item.name not in linked]
        left = [item for item in others if item.name not in make_room]
        kept = keep.survivors(self.rules, [*left, draft], self.mode)
        return CommitPlan(
            self.directory, draft, provenance, make_room, links(kept, self.mode), self._to_delete(kept, left)
        )

    def resolve_pending(self, draft: Draft, plan: CommitPlan | None, result: Committed | None) -> None:
        """What was expected is there; or it is not (no `result`), although its job was tried, or not even that."""
        with self._lock:
            self._pending.remove(draft)
            if plan is None or result is None:
                room = plan.make_room if plan else ()
                self.saved = [item for item in self.saved if item.name not in room or self._is_there(item)]
                return
            left = [item for item in _others(self.saved, plan.draft) if item.name not in plan.make_room]
            self.saved = [item for item in [*left, result.saved] if item.name not in plan.to_delete]
            self._names_to_delete = list(plan.to_delete) if result.cleanup_error else []

    def retain(self, kept: Sequence[Saved], to_delete: Sequence[Saved]) -> None:
        """Move the links to the newest and the best of `kept`; then delete `to_delete`. At once, and here.

        Raises:
            SaveError: a link could not be moved, or something not be deleted.
        """
        self.saved = list(kept)
        self._names_to_delete = self._to_delete(kept, to_delete)
        commit.move_links_and_delete(self.directory, links(kept, self.mode), self._names_to_delete)
        self._names_to_delete = []

    def _to_delete(self, kept: Sequence[Draft], there: Sequence[Draft]) -> list[str]:
        names = {item.name for item in kept}
        return [name for name in (*self._names_to_delete, *(item.name for item in there)) if name not in names]

    def _others_still_there(self, draft: Draft) -> list[Saved]:
        others = _others(self.saved, draft)
        there = [item for item in others if self._is_there(item)]
        if len(there) < len(others):
            gone = ", ".join(item.name for item in others if item not in there)
            log.warning("Gone from %s, and not by this run: %s.", self.directory, gone)
            self.saved = there
        return there

    def _is_there(self, item: Saved) -> bool:
        return (self.directory / item.name).exists()

    def path(self, saved: Saved | None) -> str:
        """Where a checkpoint lies; empty for none."""
        return str(self.directory / saved.name) if saved else ""


def links(kept: Sequence[Draft], mode: Mode | None) -> dict[str, str | None]:
    """Where `last.ckpt` and `best.ckpt` point to if these are kept, oldest first; None: there is no such link."""
    best = keep.best_of(kept, mode) if mode else None
    return {names.LAST: kept[-1].name if kept else None, names.BEST: best.name if best else None}


def _others(saved: Sequence[AnyDraft], draft: Draft) -> list[AnyDraft]:
    return [item for item in saved if item.name != draft.name]


def _next_number(saved: Sequence[Draft]) -> int:
    """The ordinal of the next save; one that is not lasting gives its number to the next."""
    return saved[-1].number + saved[-1].lasting if saved else 0
