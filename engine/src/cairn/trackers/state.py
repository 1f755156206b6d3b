"""What a tracker should have: kept up to date by the thread that commits, read by the one that talks to a tracker."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from cairn.store.listener import Links
from cairn.trackers.deleted import Deleted
from cairn.trackers.plan import Wanted
from cairn.trackers.settings import ArtifactSettings
from cairn.types import Saved
from cairn.uploads.limit import hold
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.outbox import Outbox

_LATER = "is uploaded at the end of the run"
"""What becomes of a checkpoint that exceeds the queue."""


class State:
    """Collects what happens to checkpoints into one value, `wanted`. Nothing in here waits for the tracker.

    Args:
        settings: Which checkpoints the tracker should have.
        outbox: Keeps the bytes of what waits for its upload. Used online only.
        on_disk: The digests of what retention deletes, for later starts.
        online: Checkpoints are uploaded, and not only referred to.
        errors: Logs what goes wrong.
    """

    def __init__(
        self, settings: ArtifactSettings, outbox: Outbox, on_disk: Deleted, online: bool, errors: ErrorsOnce
    ) -> None:
        self.settings, self.outbox = settings, outbox
        self.sending = ""
        """File name of the checkpoint whose bytes are being read."""
        self._on_disk, self._online, self._errors = on_disk, online, errors
        self._lock = threading.Lock()
        self._kept: dict[str, Saved] = {}
        self._chosen: dict[str, Saved] = {}
        self._links: Links = {}
        self._deleted: set[str] = set()
        self._over_limit: set[str] = set()
        self._unlisted: set[str] = set()
        self._finished = False

    # Called by the thread that commits

    def opened(self, kept: Sequence[Saved], links: Links, deleted: Sequence[Saved]) -> None:
        """Take over what is there when the run starts; see `Listener.opened`."""
        for saved in deleted:
            self._on_disk.note(saved.digest)
        waiting = self.outbox.waiting() if self._online else []
        with self._lock:
            self._kept, self._links = {saved.name: saved for saved in kept}, links
            for saved in waiting:
                here = self._kept.get(saved.name)
                if here is not None and here.digest != saved.digest:
                    self.outbox.remove(saved.name)  # saved again under this name, right before a kill
                elif self.settings.which != "none" if here is not None else self.settings.deleted != "delete":
                    self._chosen[saved.name] = saved
            self._unlisted = {*self._kept, *self._chosen}

    def committed(self, saved: Saved, links: Links) -> None:
        """See `Listener.committed`."""
        before = self._kept.get(saved.name)
        replaced = before.digest if before is not None and before.digest != saved.digest else ""
        if replaced:
            self._on_disk.note(replaced)
            self.outbox.remove(saved.name)  # the new one may not be held
        wanted = self.settings.wants(saved, links)
        waits = wanted and self._online and hold(saved, self.outbox, self.settings.queue_bytes, self._errors, _LATER)
        with self._lock:
            if replaced:
                self._deleted.add(replaced)
            for saved_by_name in (self._kept, self._chosen):
                saved_by_name.pop(saved.name, None)
            self._kept[saved.name], self._links = saved, links
            if wanted:
                self._chosen[saved.name] = saved
            self._over_limit.discard(saved.name)
            self._unlisted.discard(saved.name)
            if wanted and self._online and not waits:
                self._over_limit.add(saved.name)

    def deleting(self, names: Sequence[str]) -> None:
        """See `Listener.deleting`. A kill may come before `deleted`; of what is kept after all, nothing is deleted."""
        for name in names:
            if name in self._kept:
                self._on_disk.note(self._kept[name].digest)

    def deleted(self, names: Sequence[str]) -> None:
        """See `Listener.deleted`."""
        held = self.outbox.held
        with self._lock:
            for name in names:
                if (saved := self._kept.pop(name, None)) is None:
                    continue
                self._over_limit.discard(name)
                if self.settings.deleted != "keep":
                    self._deleted.add(saved.digest)
                if self.settings.deleted == "delete" or name not in held or not self._online:
                    self._chosen.pop(name, None)
                # Here and not by the worker: while a server hangs, what was deleted would fill the disk.
                if self.settings.deleted == "delete" and name in held and name != self.sending:
                    self.outbox.remove(name)

    def finish(self, finished: bool) -> None:
        """The run ends, or has reached its end (`finished`)."""
        with self._lock:
            self._finished = finished

    # Called by the worker

    def wanted(self) -> Wanted:
        """What a tracker should have now."""
        held = self.outbox.held if self._online else frozenset()
        with self._lock:
            return Wanted(
                self.settings,
                dict(self._kept),
                self._links,
                dict(self._chosen),
                held,
                frozenset(self._deleted),
                frozenset(self._over_limit | self._unlisted),
                self._finished,
            )

    def begin_upload(self, saved: Saved) -> Path | None:
        """Where the bytes of a checkpoint are; None if it is not wanted any more. They stay until `end_upload`."""
        with self._lock:
            if saved.name not in self._kept and saved.name not in self._chosen:
                return None
            self.sending = saved.name
        held = self.outbox.path(saved.name)
        return held if self._online and held.exists() else self.outbox.checkpoints / saved.name

    def end_upload(self) -> None:
        """The bytes may be removed."""
        with self._lock:
            self.sending = ""

    def release(self, name: str) -> None:
        """Remove a checkpoint from the outbox."""
        self.outbox.remove(name)
        with self._lock:
            if name not in self._kept:
                self._chosen.pop(name, None)

    def listed(self, digests: Collection[str]) -> None:
        """The tracker has listed what it has (`digests`): from now on it is known what is missing there."""
        noted = self._on_disk.digests().intersection(digests)
        with self._lock:
            self._unlisted.clear()
            self._deleted |= noted

    def upload_all(self) -> None:
        """The run ends: the limit of the queue holds no longer."""
        with self._lock:
            self._over_limit.clear()

    def forget_deleted(self, but: Collection[str]) -> None:
        """Forget the digests of deleted checkpoints, except for those that it has (`but`) or is about to have."""
        with self._lock:
            self._deleted &= {*but, *(saved.digest for saved in self._chosen.values())}
