"""Signal handlers that set a flag; the run obeys at its next boundary, where it can be saved.

Does not import torch: a command installs the handlers before torch is imported, which takes seconds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask a run to stop: from a terminal, from a shutdown, or from a scheduler before it kills a job."""


class Interrupts:
    """Handlers for `STOP_SIGNALS`, as a context manager or by `install` and `remove`.

    While training runs, the first signal is remembered; only a second Ctrl-C stops at once. Before and after training
    (imports, setup, the sanity check, a test) there is nothing to save, so the first signal raises KeyboardInterrupt,
    whichever signal it is. While the run is stopping, everything except Ctrl-C is ignored.

    Handlers of the user's own code are called as well, whenever their signal comes, as Lightning calls them. If one
    raises while training runs (`sys.exit` is usual there), the run still saves before it ends.

    In a process that was forked from this one, SIGTERM acts as before, and the other signals are ignored.

    Attributes:
        received: Number of the first signal; 0 if there was none.
        training: True while a boundary will come at which the run can be saved.
        stopping: True while the run ends; only Ctrl-C may disturb that.
        previous_handlers: The replaced handlers by signal number; empty unless installed.
    """

    def __init__(self) -> None:
        self.received = 0
        self.training = self.stopping = False
        self.previous_handlers: dict[int, Any] = {}
        self._removed: dict[int, Any] = {}
        self._own_handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        """Handlers of the user's own code, by signal number."""
        self._owner = 0
        self._was_ctrl_c = self._calls_own = False

    @property
    def name(self) -> str | None:
        """Name of the first signal, such as `SIGTERM`; None if there was none."""
        return signal.Signals(self.received).name if self.received else None

    def install(self) -> None:
        """Install the handlers; does nothing outside of the main thread, or if they are installed.

        SIGHUP stays ignored if it is: `nohup` starts a command that way.
        """
        if self.previous_handlers or threading.current_thread() is not threading.main_thread():
            return
        self._owner = os.getpid()
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        if before[signal.SIGHUP] == signal.SIG_IGN:
            del before[signal.SIGHUP]
        # Our own handler if it was put back after it was removed, see _pass_on: it must not be passed on to itself.
        own = [number for number, handler in before.items() if handler == self._handle]
        self.previous_handlers = before | {number: self._removed[number] for number in own}
        self.reinstall()

    def reinstall(self) -> None:
        """Install the handlers again where other code has replaced them since; does nothing unless installed."""
        self.remember_own()
        for number in self.previous_handlers:
            signal.signal(number, self._handle)

    def remember_own(self) -> None:
        """Remember the handlers of the user's own code, before Lightning wraps them into its own."""
        for number in STOP_SIGNALS:
            if callable(handler := signal.getsignal(number)) and not _is_of_a_library(handler):
                self._own_handlers[number] = handler

    def remove(self) -> None:
        """Restore the previous handlers; does nothing unless installed, or in a forked process."""
        if os.getpid() != self._owner:
            return
        for number, handler in self.previous_handlers.items():
            _restore(number, handler)
        self._removed, self.previous_handlers = self._removed | self.previous_handlers, {}

    def __enter__(self) -> Interrupts:
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def restore(self, number: int) -> None:
        """Restore the handler from before for one signal."""
        _restore(number, (self._removed | self.previous_handlers).get(number))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked process inherits the handler
            # The other signals come from a terminal or a scheduler to all processes: the main one obeys, and needs its
            # children until then.
            if number == signal.SIGTERM:  # by a handler that wraps this one, which `_let_forks_end` does not see
                self._pass_on(number)
            return
        if _is_in_hook_of_fork(frame):  # Python drops what is raised there
            threading.Timer(_AFTER_FORK_S, lambda: os.kill(os.getpid(), number)).start()
            return
        if self._calls_own:  # a handler of the user passes the signal on to the one that it found: this one
            return
        if number not in self.previous_handlers:
            self._pass_on(number)
            return
        first = not self.received
        self.received = self.received or int(number)
        if number == signal.SIGHUP:
            _leave_dead_terminal()
        self._call_own(number, frame)
        if number == signal.SIGINT:
            if self._was_ctrl_c or not self.training:
                raise KeyboardInterrupt
            self._was_ctrl_c = True
            _print_now("Stopping after this batch, with a checkpoint. Press Ctrl-C again to stop at once.")
        elif first and not self.training and not self.stopping:
            raise KeyboardInterrupt

    def _call_own(self, number: int, frame: FrameType | None) -> None:
        self._calls_own = True
        try:
            if number in self._own_handlers:
                self._own_handlers[number](number, frame)
        except BaseException as error:  # SystemExit, too: at a boundary, the run ends with a checkpoint
            if not self.training and not self.stopping:
                raise
            name = signal.Signals(number).name
            _print_now(f"The handler of {name} raised {error!r}: the run stops after this batch, with a checkpoint.")
        finally:
            self._calls_own = False

    def _pass_on(self, number: int) -> None:
        """Act as the handler from before: in a forked process, or if other code has put ours back after it was removed.

        Lightning does that when a fit fails: it restores what it found at its start, which was our handler.
        """
        self.restore(number)
        signal.raise_signal(number)


def _restore(number: int, handler: Any) -> None:
    signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: a handler that C code installed


_AFTER_FORK_S = 0.01
_masks: dict[int, set[int]] = {}
"""Blocked signals from before a fork, by the thread that forks."""


def _hold_back() -> None:
    """Block SIGTERM during a fork. Python forgets a signal that reaches the child before its first line."""
    if _owner_of_sigterm() is not None:
        _masks.setdefault(threading.get_ident(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_through() -> None:
    if (mask := _masks.get(threading.get_ident())) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _masks.pop(threading.get_ident(), None)


def _let_forks_end() -> None:
    """Let the parent end this forked process by SIGTERM. Without this, the end of a `multiprocessing.Pool` may hang."""
    try:
        if (owner := _owner_of_sigterm()) is not None:
            owner.restore(signal.SIGTERM)
    finally:
        _let_through()
        _masks.clear()  # those of other threads, which do not exist here


def _owner_of_sigterm() -> Interrupts | None:
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if isinstance(owner, Interrupts) else None


def _is_in_hook_of_fork(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code not in (_hold_back.__code__, _let_through.__code__):
        frame = frame.f_back
    return frame is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_let_forks_end)


def _is_of_a_library(handler: Any) -> bool:
    """Whether a handler is Python's, Cairn's, Lightning's or submitit's, which `Interrupts` replaces."""
    owner = getattr(handler, "__self__", None)
    module = getattr(handler, "__module__", None) or type(handler).__module__
    libraries = ("lightning", "pytorch_lightning", "submitit")
    return handler is signal.default_int_handler or isinstance(owner, Interrupts) or module.split(".")[0] in libraries


def _print_now(line: str) -> None:
    """Write to stderr inside a signal handler, where a buffered stream may be in the middle of another write."""
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


def _leave_dead_terminal() -> None:
    """Send output to /dev/null if the terminal is gone, where an error from each write would end the run unsaved."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


class Interruption(SystemExit):
    """Raised when a run was stopped: it is saved and can be resumed.

    Attributes:
        reason: Name of the signal, or what else stopped the run.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(exit_code(reason))
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def exit_code(reason: str) -> int:
    """Return the exit code a shell reports for a signal (143 for `SIGTERM`), or 75, "try again", for other reasons."""
    return 128 + int(signal.Signals[reason]) if reason in signal.Signals.__members__ else os.EX_TEMPFAIL


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore all stop signals meanwhile, in this process and in those that it starts.

    Outside of the main thread, which alone may do that, nothing changes: the handlers run in a main thread that hangs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            _restore(number, handler)
