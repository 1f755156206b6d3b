"""Stack traces of a process that hangs and of those that it has started, and the end of the latter.

The processes meant here run Python code of this training: other ranks, and data workers. They answer a signal with
their stack traces, in C, so that a process that hangs inside of a C function answers, too. A process that does not know
the signal is another program (the writer of checkpoints, W&B's client): it is left alone.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from cairn import opening

# A real-time signal, which no program uses for anything else; there are none on macOS.
_ASK: int | None = signal.SIGRTMIN + 6 if hasattr(signal, "SIGRTMIN") else None
_ANSWER_S = 0.5
"""How long to wait for the answer of a process, which takes milliseconds."""
_PROC = Path("/proc")
_SPAWNED = re.compile(rb"multiprocessing\.forkserver|--multiprocessing-fork")
"""In the command line of data workers that are not forked."""


class Answering:
    """Makes this process, and those that it forks, write their stack traces to a file when they are asked to.

    Args:
        path: The file, which is appended to; None: the standard error output.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def start(self) -> None:
        """Register the signal. Does nothing on a system without real-time signals, or if the file cannot be opened."""
        if _ASK is None:
            return
        with suppress(OSError, RuntimeError, ValueError):
            if self._path is not None:
                self._file = opening.for_appending(self._path)  # open until `stop`
            faulthandler.register(_ASK, file=self._file or 2, all_threads=True, chain=False)

    def stop(self) -> None:
        """Stop to answer."""
        if _ASK is not None:
            with suppress(OSError, RuntimeError, ValueError):
                faulthandler.unregister(_ASK)
        if self._file is not None:
            self._file.close()
            self._file = None


def own_stacks() -> str:
    """Return the stack traces of all threads of this process but the calling one, that of the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main, here = threading.main_thread().ident, threading.get_ident()
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
    return "".join(
        f"Thread {names.get(ident, ident)} (most recent call last):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
        if ident != here
    )


def own_place() -> str:
    """Return the function in which the main thread of this process is, with its file and line."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    file = "/".join(Path(frame.f_code.co_filename).parts[-2:])
    return f"{frame.f_code.co_name} ({file}:{frame.f_lineno})"


def ask_others(write: Callable[[str], Any], found: Mapping[int, str]) -> None:
    """Ask processes for their stack traces.

    Args:
        write: Writes a line before each answer, to the file in which they answer.
        found: What `others` has returned.
    """
    for pid, command in found.items():
        write(f"Process {pid} ({command[:80]}):\n")
        if state(pid) in ("T", "t"):
            write("It is stopped, as by SIGSTOP, and cannot answer.\n")
        elif ask(pid):
            time.sleep(_ANSWER_S)


def ask(pid: int) -> bool:
    """Ask a process for its stack traces; return whether it answers."""
    if _ASK is None or not _knows(pid, _ASK):
        return False
    with suppress(OSError):
        os.kill(pid, _ASK)
    return True


def kill_others(pids: Iterable[int]) -> None:
    """Kill processes, even those that hang."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def others(root: int | None = None) -> dict[int, str]:
    """Return the ranks and data workers below a process: command lines by process id.

    Args:
        root: Process id; None: this process.
    """
    children = {child.pid: child.name for child in multiprocessing.active_children() if child.pid is not None}
    if not _PROC.is_dir():
        return children
    parents = {pid: parent for path in _PROC.glob("[0-9]*") if (parent := _parent(pid := int(path.name))) is not None}
    root = os.getpid() if root is None else root
    below, found = {root}, dict[int, str]()
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    for pid in sorted(below - {root}):
        command = _command(pid)
        if pid in children or _SPAWNED.search(command) or _is_ours(pid):
            found[pid] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _is_ours(pid: int) -> bool:
    """Return whether a process is a Python process that answers."""
    # Programs in Go, such as W&B's client, handle every signal.
    return _ASK is not None and _program(pid) == _program(os.getpid()) and _knows(pid, _ASK)


def _knows(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal, which would kill it otherwise."""
    with suppress(OSError, ValueError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def state(pid: int) -> str:
    """Return the state of a process as in `ps`: R, S, T (stopped), ...; empty if it is not known."""
    fields = _fields(pid)
    return fields[0] if fields else ""


def _parent(pid: int) -> int | None:
    fields = _fields(pid)
    return int(fields[1]) if len(fields) > 1 else None


def _fields(pid: int) -> list[str]:
    try:
        # The name of the command comes before the last parenthesis, and may hold anything.
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _command(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _program(pid: int) -> str | None:
    try:
        return os.readlink(_PROC / str(pid) / "exe")
    except OSError:
        return None
