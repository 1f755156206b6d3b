"""Decides what the thread of a mirror does next, and when it tries again what has failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from cairn.errors import ConfigError, RemoteError, first_line
from cairn.remote import layout, plan
from cairn.remote.actions import Actions, Ended
from cairn.remote.backoff import Backoff
from cairn.remote.objects import CHUNK_BYTES, NUM_AT_ONCE
from cairn.remote.owner import TakenOver
from cairn.remote.plan import Delete, Operation, Point, Upload, reconcile
from cairn.remote.ranks import ShardUploads
from cairn.remote.run_files import RunFiles
from cairn.remote.session import Session
from cairn.remote.state import State
from cairn.types import Saved
from cairn.uploads.once import ErrorsOnce

LEFTOVERS_S = 150.0
"""Time from the start to the removal of leftovers, in seconds: an earlier start that still runs, and does not know yet
that it is over, may be about to create the record that needs them. One request takes less."""
_LOOK, _RENEW, _CLEAN = "look", "renew", "clean"


class Uploader:
    """Makes a mirror hold what it should hold. For one thread, except for what it says.

    Args:
        session: The connection to the mirror.
        state: What it should hold.
        run_files: Uploads what belongs to each record.
        shards: Shares the upload of shards with other ranks.
        errors: Logs what goes wrong.
    """

    def __init__(
        self, session: Session, state: State, run_files: RunFiles, shards: ShardUploads, errors: ErrorsOnce
    ) -> None:
        self._session, self._state, self._errors, self._backoff = session, state, errors, Backoff()
        self._actions = Actions(session, state, run_files, shards, errors, self._is_over)
        self.has_stopped = False
        """Whether this process must not upload."""
        self.is_listed = False  # whether it is known what the mirror holds
        self._is_renewed = self._is_clean = self._hurries = self._is_ending = False
        self._began = time.monotonic()
        self._abandoned = threading.Event()

    # Called by other threads

    def abandon(self) -> None:
        """Begin nothing more, log nothing more, and end the upload under way."""
        self._errors.silent = True
        self._abandoned.set()

    def end(self, hurries: bool) -> None:
        """The run ends.

        Args:
            hurries: It was stopped, and may be killed soon: an upload under way that is not that of the newest
                checkpoint makes way for it.
        """
        self._hurries = hurries

    @property
    def left_bytes(self) -> int:
        """Size of what is left to upload, in bytes."""
        total = sum(saved.num_bytes for saved in self.missing())
        # What was read last is still on its way.
        arrived = max(0, self._actions.sent_bytes - CHUNK_BYTES * NUM_AT_ONCE)
        return max(0, total - arrived)

    def missing(self) -> list[Saved]:
        """The checkpoints that the mirror should hold and does not hold, oldest first."""
        there = self._actions.mirrored.saved.copy()  # in one step: the other thread may change it
        return sorted(plan.missing(self._state.wanted(), there), key=lambda saved: saved.position)

    @property
    def newest(self) -> Saved | None:
        """The newest checkpoint that the mirror holds."""
        there = self._actions.mirrored.saved.copy()
        return there[max(there)] if there else None

    # Called by the thread of the mirror

    def work(self) -> float | None:
        """Do what is left to do.

        Returns:
            Seconds until something is to be tried again; None if nothing is left.
        """
        while not self._abandoned.is_set():
            waiting = set[str]()
            for kind, what, task in self._tasks():
                if self._backoff.is_over(kind):
                    self._attempt(kind, what, task)
                    break
                waiting.add(kind)
            else:
                return self._backoff.left_s(waiting)
        return None

    def finish(self) -> None:
        """The run ends: do what is left, and try again what has failed, until it is done or `abandon` is called."""
        self._backoff.end()
        self._is_ending, self._is_clean, self._began = True, False, float("-inf")
        while (left_s := self.work()) is not None:
            self._abandoned.wait(left_s)
        if self.is_listed and not self._abandoned.is_set():
            self._session.end()

    def _is_over(self, saved: Saved) -> bool:
        """Whether the upload of a checkpoint is to end."""
        if self._abandoned.is_set() or self._state.is_replaced(saved):
            return True
        newest = self._state.newest
        if not self._hurries or newest is None or newest.position <= saved.position:
            return False
        return layout.stem_of(newest) not in self._actions.mirrored.saved

    def _tasks(self) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """Yield what is left to do, in this order: its kind, what it does, and a function."""
        if not self.is_listed:
            yield _LOOK, "find out what it holds", self._look
            return
        mirrored = self._actions.mirrored
        operations = reconcile(self._state.wanted(), mirrored.saved, mirrored.damaged, mirrored.pointed)
        for operation in operations:
            yield self._task(type(operation).__name__, operation)
        if self._is_ending and not self._is_renewed and not any(isinstance(item, Upload) for item in operations):
            yield _RENEW, "upload the run files at the end", self._renew
        if not operations and not self._is_clean and time.monotonic() - self._began >= LEFTOVERS_S:
            yield _CLEAN, "remove what interrupted uploads have left", self._clean

    def _task(self, kind: str, operation: Operation) -> tuple[str, str, Callable[[], None]]:
        match operation:
            case Upload(saved):
                return kind, f"upload {saved.name}", partial(self._actions.upload, saved, self._abandoned.wait)
            case Delete(stem):
                return kind, f"delete {stem.name}", partial(self._actions.delete, stem)
            case Point(link, stem):
                return kind, f"write {layout.POINTERS[link]}", partial(self._actions.point, link, stem)

    def _look(self) -> None:
        self._actions.look()
        self.is_listed = True

    def _renew(self) -> None:
        self._actions.renew()
        self._is_renewed = True

    def _clean(self) -> None:
        self._actions.clean()
        self._is_clean = True

    def _attempt(self, kind: str, what: str, task: Callable[[], None]) -> None:
        """Do something that may fail. An error is logged once per kind; it affects neither other tasks nor training."""
        try:
            task()
        except Ended:
            pass
        except (TakenOver, ConfigError) as error:
            self._errors.log("owner", f"{first_line(error)}. This process stops mirroring")
            self.has_stopped = True
            self.abandon()
        except RemoteError as error:
            self._failed(kind, what, error.kind, error)
        except Exception as error:
            self._failed(kind, what, type(error).__name__, error)
        else:
            self._backoff.succeeded(kind)

    def _failed(self, kind: str, what: str, trouble: str, error: Exception) -> None:
        self._errors.log(f"{kind} {trouble}", f"could not {what} ({first_line(error)})")
        self._backoff.failed(kind, may_pass=trouble == "unavailable" and kind in (_LOOK, Upload.__name__))
