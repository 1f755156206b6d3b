"""When each save was finished: noted by the peers' own calls, or read from Cairn's manifests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol


class Commits(Protocol):
    """The finished saves, by the number of batches before them."""

    def look(self) -> None:
        """Note what was finished since the last call; cheap, called after every batch."""
        ...

    def settle(self) -> float:
        """Wait until nothing is being written, and return the wall clock time of the last change."""
        ...

    def wait_for(self, batch: int, timeout_s: float) -> None:
        """Wait until the save made after `batch` is finished."""
        ...

    def finished(self) -> dict[int, float]:
        """Return the wall clock time at which each save was finished, in seconds."""
        ...

    def details(self) -> dict[int, dict[str, Any]]:
        """Return what else is known of each save."""
        ...


class Ledger:
    """Peers note when a save begins, and when their call or its future is done."""

    def __init__(self) -> None:
        self._begun: set[int] = set()
        self._finished: dict[int, float] = {}
        self._sizes: dict[int, int] = {}

    def begin(self, batch: int) -> None:
        """Note that a save begins."""
        self._begun.add(batch)

    def end(self, batch: int, path: Path | None = None) -> None:
        """Note that a save is finished; may be called in any thread."""
        self._finished[batch] = time.time()
        self._sizes[batch] = _num_bytes(path) if path is not None else 0

    def look(self) -> None:
        """Nothing to do: the peers come by themselves."""

    def settle(self) -> float:
        """See `Commits`."""
        while self._begun - self._finished.keys():
            time.sleep(0.002)
        return max(self._finished.values(), default=0.0)

    def wait_for(self, batch: int, timeout_s: float) -> None:
        """See `Commits`."""
        _poll(lambda: batch in self._finished, timeout_s)

    def finished(self) -> dict[int, float]:
        """See `Commits`."""
        return dict(self._finished)

    def details(self) -> dict[int, dict[str, Any]]:
        """See `Commits`."""
        return {batch: {"num_bytes": size} for batch, size in self._sizes.items()}


class Manifests:
    """A save of Cairn is committed when its manifest is renamed, which sets the change time of the file.

    The directory is synced after the rename, so the save is durable a few milliseconds later. Nothing here asks the
    engine: only what is on the disk counts.
    """

    def __init__(self, directory: Path, quiet_s: float) -> None:
        self.directory, self.quiet_s = directory, quiet_s
        self._finished: dict[int, float] = {}
        self._details: dict[int, dict[str, Any]] = {}
        self._known: set[str] = set()

    def look(self) -> None:
        """See `Commits`. Often enough: retention deletes a manifest only after a later one is there."""
        for name in _names(self.directory):
            if name.endswith(".json") and name.startswith("epoch_") and name not in self._known:
                self._note(name)

    def settle(self) -> float:
        """See `Commits`: the directory has not changed for `quiet_s`."""
        before, changed = self._listing(), time.time()
        while time.time() - changed < self.quiet_s:
            time.sleep(0.02)
            self.look()
            if (now := self._listing()) != before:
                before, changed = now, time.time()
        return max(self._finished.values(), default=0.0)

    def wait_for(self, batch: int, timeout_s: float) -> None:
        """See `Commits`."""

        def is_there() -> bool:
            self.look()
            return batch in self._finished

        _poll(is_there, timeout_s)

    def finished(self) -> dict[int, float]:
        """See `Commits`."""
        return dict(self._finished)

    def details(self) -> dict[int, dict[str, Any]]:
        """See `Commits`: the numbers in the manifest."""
        return dict(self._details)

    def _note(self, name: str) -> None:
        path = self.directory / name
        try:
            renamed_ns, text = path.stat().st_ctime_ns, path.read_text()
        except OSError:  # deleted since the listing
            return
        fields = json.loads(text)
        batch = fields["position"]["total_batches"]
        self._known.add(name)
        self._finished[batch] = renamed_ns / 1e9
        self._details[batch] = {key: value for key, value in fields.items() if isinstance(value, int | float)}

    def _listing(self) -> list[tuple[str, int, int]]:
        found = []
        for name in _names(self.directory):
            try:
                status = os.lstat(self.directory / name)
            except OSError:
                continue
            found.append((name, status.st_size, status.st_mtime_ns))
        return sorted(found)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:  # made at the first save
        return []


def _poll(is_there: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_there() and time.monotonic() < deadline:
        time.sleep(0.002)


def _num_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files)
