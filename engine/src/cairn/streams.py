"""Standard output that cannot end a program: where it cannot be written, it is dropped from there on.

The reader of a pipe may leave (`| head -1`), the disk under a log file may fill up, and a daemon may be started with
closed descriptors (`>&-`). None of them decides how a training ends, or with which exit code.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

_NAMES = {1: "stdout", 2: "stderr"}


def protect() -> None:
    """Let writes to stdout and stderr never fail. Does nothing to streams that other code has put in their place."""
    for number in (0, *_NAMES):
        _open_closed(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open until the process ends
    for number, name in _NAMES.items():
        stream = getattr(sys, name)
        if stream is None or _is_standard(stream, number):
            setattr(sys, name, _protected(stream, number))


def _open_closed(number: int) -> None:
    """Open a closed descriptor as /dev/null: the next file that is opened would get its number, and what is printed."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, number)  # inheritable
        if null != number:
            os.close(null)
        else:
            os.set_inheritable(number, True)


def _is_standard(stream: object, number: int) -> bool:
    if not isinstance(stream, io.TextIOWrapper):
        return False
    if isinstance(getattr(stream.buffer, "raw", stream.buffer), _Descriptor):  # protected already
        return False
    try:
        return stream.fileno() == number
    except OSError:
        return False


def _protected(stream: io.TextIOWrapper | None, number: int) -> io.TextIOWrapper:
    """Return a stream with the settings of the one from before."""
    descriptor = _Descriptor(number, "w", closefd=False)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(descriptor), "utf-8", "backslashreplace", line_buffering=True)
    try:
        stream.flush()
    except OSError as error:
        _drop(number, error)
    # With PYTHONUNBUFFERED, nothing may wait here: a killed process would lose what it has printed.
    buffer: Any = descriptor if stream.write_through else io.BufferedWriter(descriptor)
    buffering = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, None, **buffering)


class _Descriptor(io.FileIO):
    """A standard descriptor that leads to /dev/null once it cannot be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _drop(self.fileno(), error)
            return memoryview(data).nbytes


def _drop(number: int, error: OSError) -> None:
    """Send what is written to a descriptor to /dev/null, also from child processes. Say why, unless a reader left."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
    if error.errno != errno.EPIPE and number == 1:
        limit = " (ulimit -f)" if error.errno == errno.EFBIG else ""
        why = f"stdout cannot be written: {error.strerror}{limit}. Its further output is dropped; the program goes on."
        with suppress(OSError):
            os.write(2, f"{why}\n".encode())
