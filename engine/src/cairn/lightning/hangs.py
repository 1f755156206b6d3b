"""Ends a fit that hangs: writes the stack traces, notes the hang, and exits so that the launcher requeues the job.

    watchdog thread    stack traces --> stderr, log      own threads, then ranks and data workers
                       report       --> .hang-RANK.tmp   each rank: where it is
                       note         --> hangs.jsonl      main rank only: who waits for whom; run.json, W&B, requeue
                       kill ranks and data workers
                       os._exit(75)                      the main thread may be inside of a C function

Nothing is saved: the state inside of a batch is not a boundary. The newest committed checkpoint stays as it is, and a
writer process finishes what it has begun.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from lightning.pytorch import Trainer

from cairn import opening
from cairn.account.watchdog import Alarm, Watchdog
from cairn.jobs import stacks
from cairn.jobs.stacks import Answering
from cairn.lightning.engine import Engine
from cairn.lightning.hang_ranks import RanksAtHang
from cairn.lightning.loops import boundary
from cairn.lightning.policy import Policy
from cairn.lightning.sentinel import Sentinel
from cairn.lightning.stopping import Stopping
from cairn.store import hangs
from cairn.store.hangs import Hang
from cairn.types import Position
from cairn.units import format_duration

_STEP_S = 20.0
"""Longest time that a step of the end may take: a disk, a pipe or a server may be why the run hangs."""
_REQUEUE_S = 150.0
"""The same for the scheduler, which may be asked several times."""
_MAIN_RANK_FIRST_S = 30.0
"""How long another rank waits before it exits, so that the scheduler does not kill the main one before its note."""
_SLOWEST_BYTES_PER_S = 1e7
"""A disk that writes more slowly than this hangs. While a file is synced, it shows no progress."""


class AtHang(Protocol):
    """What the caller of the library does when a run hangs; called on the main rank, in the watchdog's thread."""

    setting: str
    """What the user calls the limit, for the message."""
    log_file: Path | None
    """Where the stack traces go, in addition to the standard error output."""
    record_file: Path | None
    """JSON record of the run, whose `status` becomes `hung` where no thread of this process can run; None: none."""

    def end(self, hang: Hang, requeues: bool) -> None:
        """Note the hang, and requeue the job if nothing else does.

        Args:
            hang: The hang.
            requeues: Whether the job is to be requeued.

        Raises:
            SystemExit: The process has to leave with this code.
        """
        ...


class RequeueAtHang:
    """What the library does by itself: the job is requeued if it would be requeued after a signal.

    Args:
        trainer: The trainer.
        stopping: Knows the handlers that the library's own have replaced.
    """

    setting = "watchdog"
    log_file: Path | None = None
    record_file: Path | None = None

    def __init__(self, trainer: Trainer, stopping: Stopping) -> None:
        self._trainer, self._stopping = trainer, stopping

    def end(self, hang: Hang, requeues: bool) -> None:
        """See `AtHang`."""
        if requeues:
            self._stopping.hung(self._trainer)


class Watch:
    """Watches one fit after the other.

    Attributes:
        signs: Changes with each batch, validation batch and boundary.
    """

    def __init__(self) -> None:
        self.signs = 0
        self._watchdog: Watchdog | None = None

    def start(self, engine: Engine, at_hang: AtHang) -> None:
        """Watch from now on: the fit is set up.

        Args:
            engine: The engine of the fit.
            at_hang: What the caller does.
        """
        self.stop()
        if engine.policy.watchdog.is_endless or engine.trainer.fast_dev_run:
            return
        self._policy, self._trainer, self._moments = engine.policy, engine.trainer, engine.moments
        self._at_hang, self._answering = at_hang, Answering(at_hang.log_file)
        self._has_shown, self._resumed_at = False, 0
        signs = {"training": lambda: self.signs, "save": lambda: engine.saves.sign}
        self._watchdog = Watchdog(
            engine.policy.watchdog,
            signs,
            self._alarm,
            self._look,
            slack=lambda: engine.saves.num_bytes_under_way / _SLOWEST_BYTES_PER_S,
        )
        directory = engine.policy.directory if engine.policy.triggers else None
        self._ranks = RanksAtHang(engine.trainer, directory)
        by_lightning = boundary.requeue_signal(engine.trainer) is not None
        self._sentinel = Sentinel(directory, at_hang.log_file, at_hang.record_file, by_lightning)
        self._answering.start()
        self._watchdog.start()

    def begins(self, attempt: str) -> None:
        """Training begins here.

        Args:
            attempt: Name of this attempt, equal on all ranks.
        """
        if self._watchdog is not None:
            self._ranks.attempt = attempt
            self._resumed_at = self._moments.previous.total_batches

    def passes(self) -> None:
        """A boundary is reached."""
        if self._watchdog is not None:
            self._watchdog.starting = False

    def ends(self, wait_s: float) -> None:
        """The end of the fit may take this long in addition, for uploads."""
        if self._watchdog is not None:
            self._watchdog.more_s = wait_s

    def stop(self) -> None:
        """Watch no longer."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._sentinel.close()
            self._answering.stop()
            self._watchdog = None

    def _look(self, limit_s: float) -> None:
        """Report to the sentinel of the main rank, which sees the others hang, too."""
        if self._has_left():
            return
        ranks, watchdog = self._ranks, self._watchdog
        if not ranks.follows():
            self._sentinel.tell(2 * limit_s, self._moments.previous, ranks.attempt)  # the watchdog comes first
        if watchdog is not None and not self._has_shown and ranks.is_called():
            self._alarm(Alarm("training", watchdog.silent_s, limit_s))

    def _has_left(self) -> bool:
        """Watch no longer if `fit` has been left without a call of our hooks: another callback's may have failed."""
        if has_left := not _is_fitting(self._trainer):
            self.stop()
        return has_left

    def _alarm(self, alarm: Alarm) -> None:
        if self._has_left():
            return
        code, leaves = os.EX_TEMPFAIL, True
        try:
            _limited(self._sentinel.close)
            follows = self._ranks.follows()
            if not self._has_shown:
                _limited(lambda: self._show(alarm, follows), 2 * _STEP_S)
            # A main rank that is stopped may be continued: it gets as long again.
            if follows and not (self._ranks.main_is_stopped() and alarm.silent_s >= 2 * alarm.limit_s):
                # The main rank ends the run, because its exit code is the one that counts.
                self._has_shown, leaves = True, False
                return
            ends: list[bool] = []
            _limited(lambda: ends.append(self._ranks.ends_the_run(alarm.limit_s)), 2 * _STEP_S)
            if any(ends):
                _limited(lambda: self._write(self._ranks.words(alarm.limit_s)))
                code = self._end(self._hang(alarm))
            else:
                time.sleep(min(_MAIN_RANK_FIRST_S, alarm.limit_s))
            _limited(self._ranks.kill)
            _limited(lambda: (sys.stdout.flush(), sys.stderr.flush()))
        finally:
            if leaves:
                os._exit(code)

    def _hang(self, alarm: Alarm) -> Hang:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        where, host = self._moments.previous, socket.gethostname()
        return Hang(alarm.what, where, alarm.silent_s, alarm.limit_s, now, host, self._resumed_at)

    def _end(self, hang: Hang) -> int:
        """Note the hang, and requeue the job; return the exit code."""
        requeues = _requeues(self._policy, hang, self._write)
        if requeues:
            _limited(lambda: [logger.preempt() for logger in self._trainer.loggers if hasattr(logger, "preempt")])
        left: list[Any] = []

        def end() -> None:
            try:
                self._at_hang.end(hang, requeues)
            except SystemExit as stop:
                left.append(stop.code)

        _limited(end, _REQUEUE_S)
        code = left[0] if left and isinstance(left[0], int) else os.EX_TEMPFAIL
        return code if requeues else 1

    def _show(self, alarm: Alarm, follows: bool) -> None:
        where, rank = self._moments.previous, self._trainer.global_rank
        self._write(_head(alarm, where, rank, follows, self._at_hang.setting) + stacks.own_stacks())
        _limited(lambda: self._ranks.report(where))
        _limited(lambda: stacks.ask_others(self._write, self._ranks.local()))

    def _write(self, text: str) -> None:
        """Write to the standard error output and the log, without the locks of `logging`, which may be held."""
        _limited(lambda: os.write(2, text.encode(errors="replace")))
        if (path := self._at_hang.log_file) is not None:
            _limited(lambda: _append(path, text))


def _head(alarm: Alarm, where: Position, rank: int, follows: bool, setting: str) -> str:
    """Return what the stack traces of a rank begin with."""
    what = {"training": "no batch, validation or save has ended", "save": "a save has made no progress"}
    hangs = "hangs" if alarm.silent_s >= alarm.limit_s else "is asked where it is, because another rank hangs"
    then = "Rank 0 ends the run." if follows else "The run stops without a save, so that it can be resumed."
    return (
        f"[{datetime.now():%Y-%m-%d %H:%M:%S}] Rank {rank} {hangs}: {what[alarm.what]} for "
        f"{format_duration(alarm.silent_s)} (limit {format_duration(alarm.limit_s)}, {setting}); the "
        f"last boundary was epoch {where.epoch}, batch {where.batch}. {then} "
        f"Stack traces of rank {rank} (process {os.getpid()}):\n"
    )


def _requeues(policy: Policy, hang: Hang, write: Callable[[str], Any]) -> bool:
    """Note the hang; return whether another attempt may help."""
    if not policy.triggers:
        write("The run is not requeued, because it has no checkpoints: it would start from the beginning.\n")
        return False
    found: list[Hang] = []
    _limited(lambda: found.extend(hangs.note(policy.directory, hang)))
    count = hangs.num_in_place(found)
    if count >= hangs.MOST_IN_PLACE:
        write(
            f"The run has hung {count} times in a row without getting further, so it is not requeued again. "
            f"Find the cause in the stack traces, then start it again.\n"
        )
    return count < hangs.MOST_IN_PLACE


def _is_fitting(trainer: Trainer) -> bool:
    """Return whether a thread of this process runs a trainer: in `fit`, or in what a launcher calls in its place."""
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None:
            if inner.f_globals.get("__name__") == Trainer.__module__ and inner.f_locals.get("self") is trainer:
                return True
            inner = inner.f_back
    return False


def _append(path: Path, text: str) -> None:
    with opening.for_appending(path) as file:
        file.write(text.encode(errors="replace"))


def _limited(action: Callable[[], Any], limit_s: float = _STEP_S) -> None:
    """Do something that may fail or hang, and go on after a while in any case."""

    def attempt() -> None:
        with suppress(Exception):
            action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(limit_s)
