"""The checkpoints that a run has committed and keeps: what a save changes around itself, decided here."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cairn.errors import SaveError
from cairn.policy import keep
from cairn.policy.shelf import Shelf
from cairn.store import adoption, commit, disk, earlier, names, planning
from cairn.store.adoption import Adoption
from cairn.store.catalog import Catalog
from cairn.store.claim import Permit
from cairn.store.commit import CommitPlan, Committed
from cairn.store.pending import Pending, others
from cairn.store.presence import Presence
from cairn.store.resume import ResumePoint
from cairn.types import Draft, Mode, Saved

log = logging.getLogger(__name__)


class History:
    """The kept checkpoints of one run. Only rank 0 has any.

    The thread that commits may be another one than the thread that decides. The deciding thread calls `add_pending` and
    reads `with_pending`; the commit thread calls `plan_commit` and `resolve_pending`.

    Args:
        directory: Where the checkpoints are.
        rules: What to keep.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

    Attributes:
        permit: What is checked before each commit; None: nothing.
    """

    def __init__(self, directory: Path, rules: Iterable[keep.Rule], mode: Mode | None) -> None:
        self.directory, self.rules, self.mode = directory, list(rules), mode
        self._shelf: Shelf[Saved] = Shelf([], mode or "min")
        self._adopted = Adoption()
        self.permit: Permit | None = None
        self._pending = Pending(self.rules, mode)
        self._lock = threading.Lock()
        self._catalog, self._presence = Catalog(directory), Presence(directory)
        self._overdue: list[str] = []
        """Names to delete with the next commit, because deleting them failed or had to wait for a successor."""

    @property
    def saved(self) -> list[Saved]:
        """The kept checkpoints, oldest first. Do not change it: it is replaced after each save."""
        return self._shelf.items

    @property
    def newest(self) -> Saved | None:
        """The checkpoint behind `last.ckpt`."""
        return next(reversed(self.saved), None)  # read once: the commit thread may replace the list

    @property
    def best(self) -> Saved | None:
        """The checkpoint behind `best.ckpt`."""
        return keep.best_of(self._shelf, self.mode) if self.mode else None

    @property
    def links(self) -> dict[str, str | None]:
        """The target of each link."""
        return planning.links(self._shelf, self.mode)

    def path(self, saved: Saved | None) -> str:
        """Path of a checkpoint; empty for None."""
        return str(self.directory / saved.name) if saved else ""

    # The start of a run

    def take_over(self, run: str, start: ResumePoint, monitor: str | None = None) -> None:
        """Adopt what `run` has committed up to `start`. No file changes before `tidy`: the start may still be refused.

        Raises:
            ConfigError: The directory holds checkpoints of another run, or scores of another metric.
        """
        self._adopted = adoption.plan(self.directory, self._catalog, self.rules, self.mode, run, start, monitor)
        self._shelf = Shelf(self._adopted.kept, self._shelf.mode)

    def tidy(self) -> Sequence[Saved]:
        """Training has begun: move the links, and delete leftovers and what no rule keeps. Returns the latter.

        If that fails, log an error: the next save tries again.
        """
        adopted, self._adopted = self._adopted, Adoption()
        self._overdue = list(adopted.never_committed)
        try:
            earlier.settle_all(self.directory)
            for path in itertools.filterfalse(earlier.is_last, self._catalog.leftovers()):
                log.info("Removed %s, which an interrupted save or deletion left.", path.name)
                disk.remove(path)
            self.retain(self.saved, adopted.to_delete)
        except (OSError, SaveError) as error:
            log.error("%s The next save tries again.", error)
        self._overdue += adopted.newer
        return adopted.to_delete

    @property
    def num_untidy_bytes(self) -> int:
        """Size of what `tidy` will delete, in bytes."""
        left = sum(map(disk.size_bytes, self._catalog.leftovers()))
        return left + sum(item.num_bytes for item in self._adopted.to_delete)

    def add_pending(self, draft: Draft) -> None:
        """Register a checkpoint that is about to be written; from now on `with_pending` includes it."""
        with self._lock:
            self._pending.add(draft)

    @property
    def with_pending(self) -> list[Draft]:
        """What will be kept when all pending checkpoints are committed: what triggers decide by. Do not change it."""
        with self._lock:
            return self._pending.kept_with(self._shelf)

    def plan_commit(self, draft: Draft, provenance: Mapping[str, Any]) -> CommitPlan:
        """Decide what to delete, write and link for the next checkpoint to be written.

        Args:
            draft: The checkpoint.
            provenance: What its manifest says about the origin of the run.

        Returns:
            The plan.
        """
        plan = self._plan(draft, provenance)
        if self._presence.all_there({*plan.links.values()} - {draft.name}):
            return plan
        return self._plan(draft, provenance)  # a link would dangle: this time, the directory is listed

    def _plan(self, draft: Draft, provenance: Mapping[str, Any]) -> CommitPlan:
        left = others(self._shelf, draft)
        if (there := self._presence.still_there(left.items)) is not left.items:
            left = self._shelf = Shelf(there, left.mode)
        # What a link points to now stays until the link has moved, even if moving it failed before.
        linked = {self._catalog.linked(link) for link in (names.LAST, names.BEST)}
        found = planning.decide(self.rules, left, draft, self.mode, linked, self._overdue)
        decided = (found.draft, provenance, found.make_room, found.links, found.to_delete)
        return CommitPlan(self.directory, *decided, permit=self.permit)

    def resolve_pending(self, draft: Draft, plan: CommitPlan | None, result: Committed | None) -> None:
        """Record what became of a pending checkpoint.

        Args:
            draft: The checkpoint, as given to `add_pending`.
            plan: Its plan; None if there was none.
            result: Its commit; None if that failed or was not tried.
        """
        with self._lock:
            self._presence.saved()
            self._pending.remove(draft)
            if plan is None or result is None:
                deleted = {name for name in (plan.make_room if plan else ()) if not (self.directory / name).exists()}
                self._shelf = self._shelf.without(deleted)
                return
            left = others(self._shelf, plan.draft).without([*plan.make_room, *plan.to_delete])
            self._shelf = cast(Shelf[Saved], left.plus(result.saved))
            self._overdue = list(plan.to_delete) if result.cleanup_error else []

    def retain(self, kept: Sequence[Saved], to_delete: Sequence[Saved]) -> None:
        """Move the links to the newest and the best of `kept` (oldest first), then delete `to_delete`.

        Raises:
            SaveError: A link could not be moved or a checkpoint not be deleted.
        """
        self._shelf = Shelf(kept, self._shelf.mode)
        self._overdue = planning.to_delete(self._overdue, to_delete, kept)
        commit.move_links_and_delete(self.directory, planning.links(kept, self.mode), self._overdue)
        self._overdue = []
