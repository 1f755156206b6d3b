"""The checkpoints that a run has committed and keeps: what a save changes around itself, decided here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cairn.errors import ConfigError
from cairn.policy import keep
from cairn.store import commit, disk, names
from cairn.store.catalog import Catalog
from cairn.store.commit import CommitPlan, Committed
from cairn.store.resume import ResumePoint
from cairn.types import AnyDraft, Draft, Mode, Saved

log = logging.getLogger(__name__)


class History:
    """The kept checkpoints of one run. Only rank 0 has any.

    The thread that commits may be another one than the thread that decides. The deciding thread calls `add_pending` and
    reads `with_pending`; the commit thread calls `plan_commit` and `resolve_pending`.

    Args:
        directory: Where the checkpoints are.
        rules: What to keep.
        mode: Whether a lower or a higher score is better; None: there is no best.

    Attributes:
        saved: The kept checkpoints, oldest first.
        deleted: The checkpoints that `take_over` deleted.
    """

    def __init__(self, directory: Path, rules: Iterable[keep.Rule], mode: Mode | None) -> None:
        self.directory, self.rules, self.mode = directory, list(rules), mode
        self.saved: list[Saved] = []
        self.deleted: list[Saved] = []
        self._pending: list[Draft] = []
        self._coming: tuple[Any, Any, list[Draft]] = (None, None, [])
        self._lock = threading.Lock()
        self._catalog = Catalog(directory)
        self._overdue: list[str] = []
        """Names to delete with the next commit, because deleting them failed or had to wait for a successor."""

    @property
    def newest(self) -> Saved | None:
        """The checkpoint behind `last.ckpt`."""
        saved = self.saved  # the commit thread may replace the list
        return saved[-1] if saved else None

    @property
    def best(self) -> Saved | None:
        """The checkpoint behind `best.ckpt`."""
        return keep.best_of(self.saved, self.mode) if self.mode else None

    @property
    def links(self) -> dict[str, str | None]:
        """The target of each link."""
        return links(self.saved, self.mode)

    def path(self, saved: Saved | None) -> str:
        """Path of a checkpoint; empty for None."""
        return str(self.directory / saved.name) if saved else ""

    # The start of a run

    def take_over(self, run: str, start: ResumePoint) -> None:
        """Adopt what `run` has committed up to `start`, and remove what interrupted saves left.

        Raises:
            ConfigError: The directory holds checkpoints of another run, which must not be deleted.
            SaveError: A link could not be moved or a checkpoint not be deleted.
        """
        committed, rejected = self._catalog.all()
        if others := {item.run for item in committed} - {run}:
            raise ConfigError(
                f"directory={self.directory} holds checkpoints of another run ({', '.join(others)}): give each run a "
                f"directory of its own.",
                parameter="directory",
            )
        _remove_leftovers(self._catalog)
        newer = {item.path.name for item in start.rejected}
        for item in rejected:
            if item.path.name not in newer:  # older than `start`: it may have been good once, and is not in the way
                log.warning("Ignored %s: %s.", item.path.name, item.why)
        here = start.saved.position if start.saved else None
        ours = [item for item in committed if here is not None and item.position <= here]
        # Newer files are deleted when the next save is committed, so that nothing is deleted before its successor
        # exists. An interrupted first save was never committed and is deleted now: two such files would look like a run
        # that has lost all its manifests.
        if not committed:
            self._overdue = sorted(newer)
        kept = keep.survivors(self.rules, ours, self.mode)
        self.deleted = [item for item in ours if item not in kept]
        self.retain(kept, self.deleted)
        self._overdue = sorted(newer) if committed else []

    def add_pending(self, draft: Draft) -> None:
        """Register a checkpoint that is about to be written; from now on `with_pending` includes it."""
        with self._lock:
            self._pending = [*self._pending, draft]

    @property
    def with_pending(self) -> Sequence[Draft]:
        """What will be kept when all pending checkpoints are committed: what triggers decide by at each boundary."""
        if (known := self._coming)[0] is self.saved and known[1] is self._pending:  # nothing has changed
            return known[2]
        with self._lock:
            found = list[Draft](saved := self.saved)
            for draft in self._pending:
                coming = replace(draft, number=_next_number(found))
                found = keep.survivors(self.rules, [*_others(found, coming), coming], self.mode)
            self._coming = saved, self._pending, found
            return found

    def plan_commit(self, draft: Draft, provenance: Mapping[str, Any]) -> CommitPlan:
        """Decide what to delete, write and link for the next checkpoint to be written.

        Args:
            draft: The checkpoint.
            provenance: What its manifest says about the origin of the run.

        Returns:
            The plan.
        """
        others = _others(self.saved, draft)
        if len(there := _still_there(self.directory, others)) < len(others):
            others = self.saved = there
        draft = replace(draft, number=_next_number(others))
        # What a link points to now stays until the link has moved, even if moving it failed before.
        linked = {self._catalog.linked(link) for link in (names.LAST, names.BEST)}
        first = keep.to_make_room(self.rules, others, draft, self.mode)
        make_room = [item.name for item in first if item.name not in linked]
        left = [item for item in others if item.name not in make_room]
        kept = keep.survivors(self.rules, [*left, draft], self.mode)
        to_delete = _to_delete(self._overdue, left, kept)
        return CommitPlan(self.directory, draft, provenance, make_room, links(kept, self.mode), to_delete)

    def resolve_pending(self, draft: Draft, plan: CommitPlan | None, result: Committed | None) -> None:
        """Record what became of a pending checkpoint.

        Args:
            draft: The checkpoint, as given to `add_pending`.
            plan: Its plan; None if there was none.
            result: Its commit; None if that failed or was not tried.
        """
        with self._lock:
            self._pending = [item for item in self._pending if item is not draft]
            if plan is None or result is None:
                deleted = {name for name in (plan.make_room if plan else ()) if not (self.directory / name).exists()}
                self.saved = [item for item in self.saved if item.name not in deleted]
                return
            left = [item for item in _others(self.saved, plan.draft) if item.name not in plan.make_room]
            self.saved = [item for item in [*left, result.saved] if item.name not in plan.to_delete]
            self._overdue = list(plan.to_delete) if result.cleanup_error else []

    def retain(self, kept: Sequence[Saved], to_delete: Sequence[Saved]) -> None:
        """Move the links to the newest and the best of `kept` (oldest first), then delete `to_delete`.

        Raises:
            SaveError: A link could not be moved or a checkpoint not be deleted.
        """
        self.saved = list(kept)
        self._overdue = _to_delete(self._overdue, to_delete, kept)
        commit.move_links_and_delete(self.directory, links(kept, self.mode), self._overdue)
        self._overdue = []


def links(kept: Sequence[Draft], mode: Mode | None) -> dict[str, str | None]:
    """The target of each link when these checkpoints are kept.

    Args:
        kept: Checkpoints, oldest first.
        mode: Whether a lower or a higher score is better; None: there is no best.

    Returns:
        Link to file name; None: no such link.
    """
    best = keep.best_of(kept, mode) if mode else None
    return {names.LAST: kept[-1].name if kept else None, names.BEST: best.name if best else None}


def _still_there(directory: Path, saved: Sequence[Saved]) -> list[Saved]:
    there = [item for item in saved if (directory / item.name).exists()]
    if len(there) < len(saved):
        missing = ", ".join(item.name for item in saved if item not in there)
        log.warning("Something other than this run deleted checkpoints in %s: %s.", directory, missing)
    return there


def _to_delete(overdue: Sequence[str], others: Sequence[Draft], kept: Sequence[Draft]) -> list[str]:
    kept_names = {item.name for item in kept}
    return [name for name in (*overdue, *(item.name for item in others)) if name not in kept_names]


def _remove_leftovers(catalog: Catalog) -> None:
    for path in catalog.leftovers():
        log.info("Removed %s, which an interrupted save or deletion left.", path.name)
        disk.remove(path)


def _others(saved: Sequence[AnyDraft], draft: Draft) -> list[AnyDraft]:
    return [item for item in saved if item.name != draft.name]


def _next_number(saved: Sequence[Draft]) -> int:
    """Number of the next save; one that is not lasting passes its number on."""
    return saved[-1].number + saved[-1].lasting if saved else 0
