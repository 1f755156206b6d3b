"""Watchdog: notices that something which has to show signs of life has shown none for too long.

    training thread   signs += 1 at each batch, validation batch and boundary: one attribute write
    watchdog thread   wakes every few seconds: has the sign changed? for how long has it not?

Only time in which this process runs counts. A process that was stopped (SIGSTOP, Ctrl-Z), a suspended machine and a
debugger that holds the training all make the watchdog wait longer, and never end the run.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType

from cairn.policy.patience import Patience

_DEBUGGERS = (
    *("pdb", "bdb", "code", "debugpy", "pydevd", "_pydevd_bundle", "_pydevd_frame_eval"),
    *("IPython.core.debugger", "IPython.terminal.debugger", "IPython.terminal.embed"),
)
"""Modules that wait for a person; the kernel of a notebook does not, while a cell runs."""
_FIRST_LOOK_S = 2.0
"""Latest time of the first look, which starts the sentinel: a shorter fit does not pay for one."""


class Silence:
    """How long a sign of life has not changed.

    Attributes:
        now_s: How long it has not changed, in seconds; 0 while there is nothing to wait for.
        longest_s: The longest silence that has ended.
    """

    def __init__(self) -> None:
        self.now_s = self.longest_s = 0.0
        self._sign: object = None

    def tick(self, sign: object, passed_s: float) -> None:
        """Look at the sign.

        Args:
            sign: A value that changes with each sign of life; None: there is nothing to wait for.
            passed_s: Time since the last look, in seconds, without time that does not count.
        """
        if sign is not None and sign == self._sign:
            self.now_s += passed_s
            return
        # It ended between two looks: the longest that it can have lasted counts.
        self.longest_s = max(self.longest_s, self.now_s + passed_s)
        self._sign, self.now_s = sign, 0.0


@dataclass(frozen=True)
class Alarm:
    """Something has been silent for longer than its limit."""

    what: str
    """Name of what is silent."""
    silent_s: float
    limit_s: float


_END_S = 10.0
"""The thread ends at once; for a look that a disk holds up, `Watchdog.stop` waits this long."""


class Watchdog:
    """Looks at signs of life, in a thread of its own.

    Args:
        patience: How long a silence may last.
        signs: What has to show signs of life, by name: each returns a value that changes, or None while there is
            nothing to wait for. They are called in the thread.
        on_alarm: Called in the thread at each look at a silence that is too long. It usually ends the process.
        on_look: Called in the thread after each look, with the present limit in seconds.
        slack: Returns what is added to every limit at present, in seconds.

    Attributes:
        starting: True until the first boundary.
        more_s: Added to every limit, in seconds, while something is known to take that long.
    """

    def __init__(
        self,
        patience: Patience,
        signs: Mapping[str, Callable[[], object]],
        on_alarm: Callable[[Alarm], None],
        on_look: Callable[[float], None] = lambda limit_s: None,
        slack: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.patience, self.starting, self.more_s = patience, True, 0.0
        self._signs, self._on_alarm, self._on_look, self._slack = signs, on_alarm, on_look, slack
        self._silences = {name: Silence() for name in signs}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        """A daemon: a process may end while it is watched."""

    def start(self) -> None:
        """Start to look; does nothing with endless patience."""
        if not self.patience.is_endless:
            self._thread.start()

    def stop(self) -> None:
        """Stop to look, and end the thread: no alarm comes after this, except one that is being handled."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_END_S)

    @property
    def silent_s(self) -> float:
        """The longest silence at present, in seconds."""
        return max(silence.now_s for silence in self._silences.values())

    def look(self, passed_s: float) -> None:
        """Look at all signs once; the thread does this.

        Args:
            passed_s: Time since the last look, in seconds, without time that does not count.
        """
        limits_s, more_s = [], self.more_s + self._slack()
        for name, silence in self._silences.items():
            silence.tick(self._signs[name](), passed_s)
            limit_s = self.patience.limit_s(silence.longest_s, self.starting) + more_s
            limits_s.append(limit_s)
            if silence.now_s >= limit_s and not self._over.is_set():
                self._on_alarm(Alarm(name, silence.now_s, limit_s))
        if not self._over.is_set():
            self._on_look(max(limits_s))

    def _watch(self) -> None:
        tick_s, before = self.patience.tick_s, time.monotonic()
        wait_s = min(tick_s, _FIRST_LOOK_S)
        while not self._over.wait(wait_s):
            wait_s, now = tick_s, time.monotonic()
            # A look that comes late means that this process did not run: what passed meanwhile says nothing about it.
            passed_s, before = min(now - before, 2 * tick_s), now
            self.look(0.0 if is_debugged() else passed_s)


def is_debugged() -> bool:
    """Return whether a debugger holds a thread of this process, or traces its main thread."""
    main = threading.main_thread().ident
    # `f_trace` is what `sys.gettrace` would return in that thread: a debugger steps through its code.
    return any(
        any(_is_debugger(frame) or (ident == main and frame.f_trace is not None) for frame in _stack(frame))
        for ident, frame in sys._current_frames().items()
    )


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_debugger(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return any(name == module or name.startswith(f"{module}.") for module in _DEBUGGERS)
