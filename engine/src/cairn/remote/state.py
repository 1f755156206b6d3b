"""What the mirror should hold, kept up to date by the thread that commits, and read by the thread that uploads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn import opening
from cairn.errors import CheckpointError
from cairn.remote import layout
from cairn.remote.layout import Stem
from cairn.remote.plan import Wanted
from cairn.remote.settings import MirrorSettings
from cairn.store import manifest, names
from cairn.store.listener import Links
from cairn.types import Saved
from cairn.uploads.limit import hold
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.outbox import Outbox

_LATER = "is mirrored only while the local disk keeps it"
"""What becomes of a checkpoint that exceeds the queue."""


@dataclass(frozen=True)
class Source:
    """What is uploaded of a checkpoint."""

    path: Path
    """The file, or the directory of shards."""
    manifest: str
    """Text of its manifest."""


class State:
    """Collects what happens to checkpoints into one value, `wanted`. Nothing in here waits for the store.

    Args:
        settings: Which checkpoints the mirror should hold.
        outbox: Keeps the bytes of what waits for its upload.
        errors: Logs what goes wrong.
    """

    def __init__(self, settings: MirrorSettings, outbox: Outbox, errors: ErrorsOnce) -> None:
        self.settings, self.outbox, self._errors = settings, outbox, errors
        self.num_skipped = 0
        """Checkpoints that were selected, and that newer ones have replaced before they were uploaded."""
        self._lock = threading.Lock()
        self._kept: dict[str, Saved] = {}
        self._waiting: dict[str, Saved] = {}
        self._links: Links = {}
        self._abandoned: set[Stem] = set()
        self._pending: set[Stem] = set()
        self._resumed_from: Stem | None = None
        self._ends = False
        self._sending = ""

    # Called by the thread that commits

    def opened(self, kept: Sequence[Saved], links: Links) -> None:
        """Take over what is there when the run starts; see `Listener.opened`."""
        waiting = self.outbox.waiting()
        with self._lock:
            self._kept, self._links = {saved.name: saved for saved in kept}, links
            self._resumed_from = layout.stem_of(kept[-1]) if kept else None
            for saved in waiting:
                here = self._kept.get(saved.name)
                if here is not None and here.digest != saved.digest:
                    self.outbox.remove(saved.name)  # saved again under this name, right before a kill
                else:
                    self._waiting[saved.name] = saved
            self._remove_unwanted()

    def committed(self, saved: Saved, links: Links) -> None:
        """See `Listener.committed`."""
        with self._lock:
            before = self._kept.get(saved.name)
            if before is not None and before.digest != saved.digest:
                self._drop(saved.name)
            self._kept[saved.name], self._links = saved, links
            if self.settings.selects(saved, links):
                self._pending.add(layout.stem_of(saved))
                if hold(saved, self.outbox, self.settings.queue_bytes, self._errors, _LATER):
                    self._waiting[saved.name] = saved
            self._remove_unwanted()

    def deleted(self, names: Sequence[str]) -> None:
        """See `Listener.deleted`."""
        with self._lock:
            for name in names:
                self._kept.pop(name, None)
            self._remove_unwanted()

    def finish(self) -> None:
        """The run ends or stops: its newest checkpoint is mirrored in any case."""
        with self._lock:
            self._ends = True

    # Called by the thread that uploads

    def wanted(self) -> Wanted:
        """What the mirror should hold now."""
        with self._lock:
            return self._wanted()

    def listed(self, stems: Iterable[Stem]) -> None:
        """Take note of what the mirror holds when the run starts: all checkpoints that have a record."""
        with self._lock:
            here, newest = {layout.stem_of(saved) for saved in self._kept.values()}, self._resumed_from
            self._abandoned = {stem for stem in stems if stem not in here and (newest is None or newest < stem)}

    def begin_upload(self, saved: Saved) -> Source | None:
        """Where a checkpoint is, whose bytes stay until `end_upload`; None if they are gone."""
        with self._lock:
            self._sending = saved.name
            is_held = saved.name in self._waiting
        try:
            return _source(self.outbox, saved, is_held)
        except (OSError, CheckpointError):
            return None

    def is_replaced(self, saved: Saved) -> bool:
        """Whether another checkpoint was saved under the name of this one: its bytes may be gone."""
        return any(other.digest != saved.digest for other in self._named(saved.name))

    def end_upload(self, saved: Saved, is_there: bool, is_lost: bool = False) -> None:
        """The bytes are not needed any more, or the upload is tried again.

        Args:
            saved: The checkpoint.
            is_there: The mirror holds it.
            is_lost: It cannot be uploaded, now or later.
        """
        with self._lock:
            self._sending = ""
            if is_there:
                self._pending.discard(layout.stem_of(saved))
            if (is_there or is_lost) and not self.is_replaced(saved):
                self._drop(saved.name)
                if is_lost:
                    self._kept.pop(saved.name, None)
            self._remove_unwanted()

    @property
    def newest(self) -> Saved | None:
        """The newest checkpoint on the local disk."""
        with self._lock:
            return self._kept.get(self._links.get(names.LAST) or "")

    def _wanted(self) -> Wanted:
        kept, waiting, past = dict(self._kept), dict(self._waiting), frozenset(self._abandoned)
        return Wanted(self.settings, kept, waiting, self._links, past, self._resumed_from, self._ends)

    def _remove_unwanted(self) -> None:
        """Remove from the outbox what is not wanted any more: while a store hangs, it would fill the disk."""
        if self._waiting:
            wanted = self._wanted()
            for name, saved in list(self._waiting.items()):
                if name != self._sending and not wanted.wants(saved):
                    self._drop(name)
        lost = {stem for stem in self._pending if not self._is_here(stem)}
        self.num_skipped += len(lost)
        self._pending -= lost

    def _is_here(self, stem: Stem) -> bool:
        return any(layout.stem_of(saved) == stem for saved in self._named(stem.name))

    def _named(self, name: str) -> list[Saved]:
        return [saved for found in (self._waiting, self._kept) if (saved := found.get(name)) is not None]

    def _drop(self, name: str) -> None:
        self._waiting.pop(name, None)
        self.outbox.remove(name)


def _source(outbox: Outbox, saved: Saved, is_held: bool) -> Source | None:
    """Return where the bytes of a checkpoint are; None if another one has its name."""
    if is_held:
        path, text = outbox.path(saved.name), outbox.text(saved.name)
    else:
        path = outbox.checkpoints / saved.name
        text = opening.read_bytes(path.with_name(names.manifest_name(saved.name)))
    return Source(path, text.decode()) if manifest.load(text).digest == saved.digest else None
