"""A run that is mirrored, without training: it commits and deletes small checkpoints. And a store with faults."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.values import draft, small_file

from cairn.remote import address, layout, listed
from cairn.remote.mirror import Mirror
from cairn.remote.objects import Objects
from cairn.remote.record import Record
from cairn.store import manifest, names
from cairn.store.catalog import Catalog
from cairn.store.commit import CommitPlan, delete_checkpoint, write
from cairn.types import Saved
from cairn.uploads.thread import WakingThread


class MirroredRun:
    """Commits and deletes checkpoints in a directory, and informs a mirror.

    Args:
        where: Address of the mirror.
        folder: The checkpoint directory; what is in it is there at the start.
        settings: Arguments of the mirror.
    """

    def __init__(self, where: str, folder: Path, run: str = "toy", **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.mirror = folder, Mirror(where, **settings)
        self.objects = Objects(address.parse(where))
        kept = Catalog(folder).committed()
        self.links: dict[str, str | None] = {names.LAST: kept[-1].name if kept else None}
        self.mirror.begin(folder, run, bool(kept))
        self.mirror.opened(folder, kept, self.links, [])

    def save(
        self,
        number: int,
        *,
        best: bool = False,
        delete: tuple[int, ...] = (),
        contents: int | None = None,
        num_more_bytes: int = 0,
        **facts: Any,
    ) -> Saved:
        """Commit a checkpoint, and delete others with it."""
        doomed, contents = [self.name(item) for item in delete], number if contents is None else contents
        self.mirror.deleting(doomed)
        made = write(CommitPlan(self.folder, draft(number, **facts), {"world_size": 1}), small_file(contents)).saved
        if num_more_bytes:
            made = self._enlarged(made, num_more_bytes)
        self.links = {**self.links, names.LAST: made.name, **({names.BEST: made.name} if best else {})}
        for name in doomed:
            delete_checkpoint(self.folder, name)
        self.mirror.committed(made, self.links)
        self.mirror.deleted(doomed)
        return made

    def _enlarged(self, made: Saved, num_more_bytes: int) -> Saved:
        """Make the file of a checkpoint larger than one request; it cannot be loaded."""
        with (self.folder / made.name).open("ab") as file:
            file.write(random.Random(made.number).randbytes(num_more_bytes))
        made = replace(made, num_bytes=made.num_bytes + num_more_bytes)
        (self.folder / names.manifest_name(made.name)).write_text(manifest.dump(made, {}))
        return made

    def elsewhere(self, folder: Path, number: int, **settings: Any) -> MirroredRun:
        """The same run on another disk, which has fetched one checkpoint."""
        folder.mkdir(parents=True)
        for name in (self.name(number), names.manifest_name(self.name(number))):
            shutil.copy(self.folder / name, folder / name)
        return MirroredRun(str(self.mirror.address), folder, **settings)

    def delete(self, *numbers: int) -> None:
        """Delete checkpoints."""
        doomed = [self.name(number) for number in numbers]
        self.mirror.deleting(doomed)
        for name in doomed:
            delete_checkpoint(self.folder, name)
        self.mirror.deleted(doomed)

    def name(self, number: int) -> str:
        """Name of a checkpoint."""
        return f"epoch_000_batch_{number + 1:06d}.ckpt"

    def idle(self) -> None:
        """Wait until the mirror has nothing to do, or waits before it tries again."""
        assert self.mirror._parts is not None
        wait_until_idle(self.mirror._parts.thread)

    def end(self, finished: bool = True, limit_s: float = 60.0) -> None:
        """The run ends."""
        self.mirror.close(finished, limit_s)

    def kill(self) -> None:
        """The process is killed: nothing more happens."""
        assert self.mirror._parts is not None
        self.mirror._parts.uploader.abandon()
        self.mirror._parts.thread.wake("end")
        self.mirror._parts.thread.join(60)

    def mirrored(self) -> list[str]:
        """Names of the checkpoints that the mirror holds with all that they need, oldest first."""
        found = listed.look(self.objects)
        records, bad = listed.read_records(self.objects, found)
        assert not bad
        assert all(not found.missing(item) for item in records), "a record exists without what it needs"
        return [item.saved.name for item in records]

    def listed(self) -> list[str]:
        """Names of the checkpoints that have a record, also while the mirror works."""
        return [stem.name for stem in listed.look(self.objects).stems]

    def record(self, number: int) -> Record:
        """The record of a checkpoint."""
        (stem,) = (stem for stem in listed.look(self.objects).stems if stem.name == self.name(number))
        return listed.read_record(self.objects, stem)

    def unreferenced(self) -> list[str]:
        """What no record needs."""
        found = listed.look(self.objects)
        return found.unreferenced(listed.read_records(self.objects, found)[0])


def wait_until_idle(thread: WakingThread, limit_s: float = 60.0) -> None:
    """Wait until a thread has handled every reason so far."""
    end = time.monotonic() + limit_s
    while True:
        with thread._changed:  # it takes the reasons and starts to wait under this lock
            if not thread.is_alive or (not thread._due and thread._changed._waiters):
                return
        assert time.monotonic() < end, f"the thread was still busy after {limit_s:g} s"
        time.sleep(0.002)


class Faults:
    """Makes calls of the store fail or hang. Install it with `install(monkeypatch)`.

    Attributes:
        calls: What was asked for: method and name of the object.
        before: Called before each call with its method and name; what it raises is the answer of the store.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, name: None
        self.release = threading.Event()

    def hang(self, method: str, name: str) -> None:
        """Answer nothing until `release` is set."""
        self.release.wait(120)

    def install(self, monkeypatch: Any) -> Faults:
        """Let mirrors use a store with these faults."""
        faults = self

        class Faulty(Objects):
            pass

        def wrapped(method: str) -> Callable[..., Any]:
            def call(own: Objects, *arguments: Any, **more: Any) -> Any:
                name = str(arguments[0]) if arguments and isinstance(arguments[0], str) else ""
                faults.calls.append((method, name))
                faults.before(method, name)
                return getattr(Objects, method)(own, *arguments, **more)

            return call

        for method in ("check", "list", "put", "put_file", "create", "get", "delete"):
            setattr(Faulty, method, wrapped(method))
        monkeypatch.setattr("cairn.remote.session.Objects", Faulty)
        return self


def data_name(saved: Saved) -> str:
    """Name of the object of a checkpoint in one file."""
    return layout.stem_of(saved).data
