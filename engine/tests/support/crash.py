"""Crash consistency: let any system call of a run fail, or kill it there, and check what the next start finds."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.power import NAMES, Call, Killed, Tape, after_a_power_cut, put_up

from cairn.store import commit, names, resume
from cairn.store.catalog import Catalog, verify
from cairn.types import Saved

FULL = {"open", "write", "fsync", "mkdir", "symlink"}
"""Calls that a full disk refuses; renames and deletions still work."""
FAILURES = {
    "a full disk": (errno.ENOSPC, FULL),
    "a broken disk": (errno.EIO, {*NAMES, "rmdir"}),
    "no permission": (errno.EACCES, {*NAMES, "rmdir"}),
}
Run = Callable[[Path, Callable[[object], None]], None]
"""Acts like a training below a directory, and reports what it has committed."""
Before = Callable[[int, Call], None]


def folder_in(root: Path) -> Path:
    """Where the checkpoints of a run are."""
    return root / "run" / "checkpoints"


@contextmanager
def reporting(report: Callable[[object], None], number: int) -> Iterator[None]:
    """Report a checkpoint as soon as it is committed: before the links are moved."""
    settle = commit.move_links_and_delete

    def reporting_settle(*args: Any) -> None:
        report(number)
        settle(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "move_links_and_delete", reporting_settle)
        yield


def last_reported(calls: list[Call]) -> int:
    """Number of the last checkpoint that was reported; -1: none."""
    return max((int(call.other) for call in calls if call.name == "report"), default=-1)


def record(root: Path, run: Run, calls: Sequence[str] = NAMES) -> list[Call]:
    """Return the system calls of an undisturbed run, in which the next one is not created before."""
    with Tape(root, names=calls) as tape:
        run(root, tape.report)
    return tape.calls


def failing(point: int, code: int, concerned: Iterable[str], lasting: bool) -> Before:
    """Let a call fail, and all later ones if `lasting`."""

    def fail(number: int, call: Call) -> None:
        if (number == point or (lasting and number > point)) and call.name in concerned:
            raise OSError(code, os.strerror(code), call.path)

    return fail


def killing(point: int) -> Before:
    """Kill the process before a call."""

    def kill(number: int, call: Call) -> None:
        if number == point:
            raise Killed

    return kill


class KilledOnce(Killed):
    """A writer was killed; the other ranks' writers and its successor go on."""

    is_last = False


class KillOnce:
    """Kills a writer before a call.

    Attributes:
        has_killed: Whether it was called with that call.
    """

    def __init__(self, point: int) -> None:
        self._point, self.has_killed = point, False

    def __call__(self, number: int, call: Call) -> None:
        """Kill if this is the call, and the first time."""
        if number == self._point and not self.has_killed:
            self.has_killed = True
            raise KilledOnce


def retried(again: bool, write: Callable[[bool], Any]) -> Any:
    """Let a writer write; with `again`, one that is killed is replaced, as its training process does."""
    try:
        return write(False)
    except Killed:
        if not again:
            raise
        return write(True)


class Roots:
    """Makes a new directory each time, and deletes the one before: tests need hundreds.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._last = folder, folder / "none"

    def __call__(self, name: object) -> Path:
        """Make the next one."""
        shutil.rmtree(self._last, ignore_errors=True)
        self._last = self._folder / str(name)
        self._last.mkdir()
        return self._last

    def after_power_cuts(self, calls: list[Call]) -> Iterator[tuple[Path, int, Call]]:
        """Yield each state after a power cut, with the last reported checkpoint, and the call before it.

        These include every state in which a part of the names and bytes that were not synced is lost.
        """
        seen: set[tuple[Any, ...]] = set()
        for point, call in enumerate(calls):
            reported = last_reported(calls[: point + 1])
            for tree in after_a_power_cut(calls[: point + 1]):
                if (key := (reported, *sorted(tree.items(), key=str))) in seen:
                    continue
                seen.add(key)
                shutil.rmtree(self._last, ignore_errors=True)
                self._last = self._folder / str(len(seen))
                put_up(tree, self._last)
                yield self._last, reported, call


def check(
    root: Path, reported: int, number_of: Callable[[Saved], int] = lambda saved: saved.position.batch - 1
) -> None:
    """Check that the next start finds an intact checkpoint that is not older than the last reported one.

    Links point to intact ones.
    """
    folder = folder_in(root)
    point = resume.find_resume_point(folder)
    assert (number_of(point.saved) if point.saved else -1) >= reported, point.rejected
    good = {item.name: item for item in Catalog(folder).committed()}
    for link in (folder / names.LAST, folder / names.BEST):
        if link.is_symlink():
            verify(folder / os.readlink(link), good[os.readlink(link)])


def check_tidy(root: Path) -> None:
    """Check that nothing is there except checkpoints and links."""
    folder = folder_in(root)
    kept = Catalog(folder).committed()
    files = {file for item in kept for file in (item.name, names.manifest_name(item.name))}
    assert {path.name for path in folder.iterdir()} == files | {names.LAST, names.BEST}
    assert all((folder / link).exists() for link in (names.LAST, names.BEST))
    for item in kept:
        if item.shards:
            assert {path.name for path in (folder / item.name).iterdir()} == {one.name for one in item.shards}
