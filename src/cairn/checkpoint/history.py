"""What this run has committed and keeps: after each commit the links move first, and only then is something deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from cairn.checkpoint import disk, layout, retention, space
from cairn.checkpoint.catalog import Catalog
from cairn.checkpoint.errors import ConfigError
from cairn.checkpoint.resume import Plan
from cairn.checkpoint.types import Mode, Saved
from cairn.checkpoint.writer import Writer

log = logging.getLogger(__name__)


class History:
    """The kept checkpoints of one run, oldest first. Only rank 0 has any.

    Args:
        directory: where they are.
        rules: what to keep.
        mode: whether a lower or a higher score is better; None: there is no best.
        writer: moves the links and deletes.
    """

    def __init__(self, directory: Path, rules: Iterable[retention.Rule], mode: Mode | None, writer: Writer) -> None:
        self.directory, self.rules, self.mode, self.writer = directory, list(rules), mode, writer
        self.saved: list[Saved] = []
        self._rejected: list[str] = []
        self._unwanted: list[str] = []

    @property
    def newest(self) -> Saved | None:
        """What `last.ckpt` is."""
        return self.saved[-1] if self.saved else None

    @property
    def best(self) -> Saved | None:
        """What `best.ckpt` is."""
        return retention.best_of(self.saved, self.mode) if self.mode else None

    @property
    def next_number(self) -> int:
        """The ordinal of the next save; one that is not lasting gives its number to the next."""
        return self.newest.number + self.newest.lasting if self.newest else 0

    def open(self, run: str, plan: Plan) -> None:
        """Take over what `run` had committed when it was where `plan` goes on; clear away what dead writers have left.

        Raises:
            ConfigError: the directory holds checkpoints of another run, which are not ours to delete.
            SaveError: as in `add`.
        """
        catalog = Catalog(self.directory)
        committed, rejected = catalog.all()
        if others := {item.run for item in committed} - {run}:
            raise ConfigError(
                f"checkpoint.dirpath={self.directory} holds checkpoints of another run ({', '.join(others)}): give "
                f"each run a directory of its own."
            )
        for path in catalog.leftovers():
            log.info("Removed %s: a save or a deletion was cut off there.", path.name)
            disk.remove(path)
        here = plan.saved.position if plan.saved else None
        abandoned = {item.path.name for item in plan.rejected}
        for item in rejected:
            if item.path.name not in abandoned:  # older: it may have been good once, and is not in the way
                log.warning("Left alone, and not used: %s, because %s.", item.path.name, item.why)
        # What is newer than where the run goes on is gone when something better is there: nothing is deleted before its
        # successor is committed. A first save that was cut off never was committed, and goes at once: two of them would
        # look like a run that has lost all its manifests.
        self._rejected = sorted(abandoned)
        if not committed:
            self._unwanted, self._rejected = self._rejected, []
        self.saved = [item for item in committed if here is not None and item.position <= here]
        self.keep(retention.survivors(self.rules, self.saved, self.mode))

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
        first, second = retention.needs(self.rules, self.saved, self.mode, num_bytes, count=2)
        free = disk.free_bytes(self.directory)
        there = f"{space.size(free)} are free in checkpoint.dirpath={self.directory}"
        if first > free:
            raise ConfigError(
                f"A checkpoint of this run needs about {space.size(num_bytes)}, and only {there}: make room, or choose "
                f"another directory."
            )
        if second > free:
            log.warning(
                "A checkpoint of this run needs about %s, and %s: there will be no room for a second one beside the "
                "first, which stays until the second is whole.",
                space.size(num_bytes),
                there,
            )

    def make_room(self, coming: Saved) -> None:
        """Delete what a budget gives up for a checkpoint that is about to be written.

        Raises:
            SaveError: something could not be deleted.
        """
        catalog = Catalog(self.directory)
        linked = {catalog.linked(link) for link in (layout.LAST, layout.BEST)}  # one that could not be moved yet, too
        for item in retention.gives_way(self.rules, self.saved, coming, self.mode):
            if item.name not in linked:
                self.writer.remove(item.name)
                self.saved.remove(item)

    def add(self, saved: Saved) -> None:
        """A checkpoint was committed: move the links, then delete what no rule keeps and what it replaces.

        Raises:
            SaveError: a link could not be moved, or something not be deleted; the next call tries again.
        """
        others = [item for item in self.saved if item.name != saved.name]
        there = [item for item in others if (self.directory / item.name).exists()]
        if len(there) < len(others):
            gone = ", ".join(item.name for item in others if item not in there)
            log.warning("Gone from %s, and not by this run: %s.", self.directory, gone)
        self._unwanted += self._rejected
        self._rejected = []
        self.keep(retention.survivors(self.rules, [*there, saved], self.mode))

    def keep(self, kept: Sequence[Saved]) -> None:
        """Move the links to the newest and the best of `kept`; then delete the others.

        Raises:
            SaveError: as in `add`.
        """
        names = {item.name for item in kept}
        self._unwanted = [name for name in (*self._unwanted, *(item.name for item in self.saved)) if name not in names]
        self.saved = list(kept)
        self.writer.link(layout.LAST, self.newest.name if self.newest else None)
        self.writer.link(layout.BEST, self.best.name if self.best else None)
        while self._unwanted:
            self.writer.remove(self._unwanted[0])
            del self._unwanted[0]

    def path(self, saved: Saved | None) -> str:
        """Where a checkpoint lies; empty for none."""
        return str(self.directory / saved.name) if saved else ""
