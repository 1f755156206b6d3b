"""The thread that talks to a tracker: after each change it does what is left to do, and then waits for the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cairn.errors import first_line
from cairn.trackers.plan import (
    AddAliases,
    Delete,
    Operation,
    Release,
    Untag,
    Upload,
    Version,
    Wanted,
    missing,
    reconcile,
    taken,
    without,
)
from cairn.trackers.remote import FileGone, Remote
from cairn.trackers.secrets import hidden
from cairn.trackers.state import State
from cairn.types import Saved
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.thread import WakingThread

_USE = "could not record what this run starts from"
_LIST = "could not find out what it has of this run"
_UPLOAD = "could not upload a checkpoint"
_DELETE = "could not delete the version of a deleted checkpoint"
_ALIAS = "could not set an alias"
_CHANGE, _REFRESH, _END = "change", "refresh", "end"


class Executor:
    """Executes what `plan.reconcile` asks for, one operation after the other. Not for several threads.

    Args:
        remote: Executes single operations.
        state: What the tracker should have.
        errors: Logs what goes wrong.
    """

    def __init__(self, remote: Remote, state: State, errors: ErrorsOnce) -> None:
        self._remote, self._state, self._errors = remote, state, errors
        self._abandoned = False
        self._actual: list[Version] = []
        self._failed: set[tuple[str, ...]] = set()
        self._gone: set[tuple[str, str]] = set()

    def attempt(self, what: str, task: Callable[[], Any]) -> bool:
        """Do something that may fail. An error is logged; it affects neither other tasks nor training.

        Args:
            what: What the task could not do, for the message.
            task: Called without arguments.

        Returns:
            Whether the task was done.
        """
        if self._abandoned:
            return False
        try:
            task()
        except FileGone as gone:  # deleted by retention, which `state` is about to learn, or by the owner of the run
            self._gone.add((gone.saved.name, gone.saved.digest))
            return False
        except Exception as error:
            self._errors.log(what, f"{what} ({hidden(first_line(error))})")
            return False
        return True

    def abandon(self) -> None:
        """Called by another thread: begin nothing more and log nothing more."""
        self._abandoned = self._errors.silent = True

    def update(self) -> None:
        """Do what is left to do; ask again after each operation, since what is wanted may have changed meanwhile."""
        while not self._abandoned:
            wanted = self._state.wanted()
            operations = reconcile(wanted, self._actual)
            left = [operation for operation in operations if operation.key not in self._failed]
            if not left:
                self._forget(wanted, operations)
                break
            what, task = self._task(left[0])
            if not self.attempt(what, task):
                self._failed.add(left[0].key)

    def retry(self) -> None:
        """At the end of the run: do also what was postponed, and try again what has failed."""
        self._failed.clear()
        self._state.upload_all()
        # Versions may have appeared since the start: a killed process of this run was still sending.
        if self._state.settings.deleted != "keep" or self._missing():
            self.refresh()
        self.update()

    def missing(self) -> list[str]:
        """File names of the checkpoints that the tracker should have and does not have."""
        return [saved.name for saved in self._missing() if (saved.name, saved.digest) not in self._gone]

    def refresh(self) -> None:
        """Find out what the tracker has."""
        self.attempt(_LIST, self._list_versions)

    def _missing(self) -> Sequence[Saved]:
        return missing(self._state.wanted(), self._actual)

    def _list_versions(self) -> None:
        listed = self._remote.listed()
        self._state.listed({version.digest for version in listed})
        wanted, known = self._state.wanted(), {version.id: version.has_bytes for version in self._actual}
        concerned = {(saved.name, saved.digest): saved for saved in (*wanted.chosen.values(), *wanted.kept.values())}
        found = []
        for version in listed:
            if saved := concerned.get((version.name, version.digest)):
                has_bytes = known.get(version.id)
                has_bytes = self._holds(version, saved) if has_bytes is None else has_bytes
                found.append(replace(version, has_bytes=has_bytes))
            elif version.digest in wanted.deleted:
                found.append(version)
        there = {version.id for version in listed}
        self._actual = [*found, *(version for version in self._actual if version.id not in there)]

    def _holds(self, version: Version, saved: Saved) -> bool | None:
        answers: list[bool] = []
        self.attempt(_LIST, lambda: answers.append(self._remote.holds(version, saved)))
        return answers[0] if answers else None

    def _task(self, operation: Operation) -> tuple[str, Callable[[], Any]]:
        match operation:
            case Upload():
                return _UPLOAD, partial(self._upload, operation)
            case Delete(version):
                return _DELETE, partial(self._delete, version)
            case Untag(version):
                return _DELETE, lambda: self._take(self._remote.untag(version))
            case AddAliases(version, aliases):
                return _ALIAS, lambda: self._take(self._remote.add_aliases(version, aliases))
            case Release(name):
                return _UPLOAD, partial(self._state.release, name)

    def _upload(self, operation: Upload) -> None:
        source = self._state.begin_upload(operation.saved)
        if source is not None:
            try:
                self._take(self._remote.upload(operation.saved, source, operation.aliases))
            finally:
                self._state.end_upload()

    def _delete(self, version: Version) -> None:
        self._remote.delete(version)
        self._actual = without(self._actual, version)

    def _take(self, version: Version) -> None:
        self._actual = taken(self._actual, version)

    def _forget(self, wanted: Wanted, left: Collection[Operation]) -> None:
        """Forget versions with which nothing is left to do: otherwise, memory would grow with the run."""
        digests = {saved.digest for saved in (*wanted.kept.values(), *wanted.chosen.values())}
        concerned = {operation.version.id for operation in left if not isinstance(operation, (Upload, Release))}
        self._actual = [v for v in self._actual if v.digest in digests or v.id in concerned]
        self._state.forget_deleted({version.digest for version in self._actual})


class Worker:
    """A thread that lets an executor work whenever something has changed.

    Args:
        executor: Used by this thread only.
        uses: Tasks to do first: record what the run starts from.
    """

    def __init__(self, executor: Executor, uses: Sequence[Callable[[], Any]] = ()) -> None:
        self._executor, self._uses = executor, uses
        self.missing: list[str] = []
        """Known at the end: file names of checkpoints that the tracker should have and does not have."""
        self.thread = WakingThread("tracker-artifacts", self._work)
        self.thread.start()

    def refresh(self) -> None:
        """Find out what the tracker has, then do what is left to do."""
        self.thread.wake(_REFRESH)

    def update(self) -> None:
        """Do what is left to do."""
        self.thread.wake(_CHANGE)

    def finish(self) -> None:
        """Do what is left to do, try again what has failed, and end."""
        self.thread.wake(_END)

    def _work(self, thread: WakingThread) -> None:
        for task in self._uses:
            self._executor.attempt(_USE, task)
        due: set[str] = set()
        while _END not in due:
            due = thread.take()
            if _REFRESH in due:
                self._executor.refresh()
            self._executor.update()
        self._executor.retry()
        self.missing = self._executor.missing()
