"""WHERE a checkpoint is put together: buffers in memory that are used again, each as large as the file.

They are anonymous (memfd_create): another process can map them, and none is left when the last one that has is gone,
however it went.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cairn.store.disk import PAGE

_SHARE = 256
"""A buffer has one part in so many to spare, lest a state that grows by a few numbers needs a larger one."""
_SPARE_BYTES = 2**16
_MADV_HUGEPAGE, _MADV_POPULATE_WRITE = 14, 23  # of Linux; Python has no name for the second one yet


class Buffer:
    """The memory for one file.

    Attributes:
        view: all of it.
        held: what its present content needs beside the bytes: its layout, tensors that are mapped onto it.
        wait: returns when the content is complete.
    """

    def __init__(self) -> None:
        self.fd = _anonymous_file()
        self._map: mmap.mmap | None = None
        self.held: Any = None
        self.wait: Callable[[], None] = no_op
        self.unpin: Callable[[], None] | None = None
        """Takes the memory from a GPU that it was pinned for."""
        self.num_bytes = 0
        """Of the file that is in it now."""
        self.device_s = 0.0
        """How long a GPU that trains stood still for the copy, which the processor does not see; known after `wait`."""

    @property
    def capacity(self) -> int:
        """In bytes."""
        return 0 if self._map is None else len(self._map)

    @property
    def view(self) -> memoryview:
        assert self._map is not None, "allocate() comes first"
        return memoryview(self._map)

    def allocate(self, num_bytes: int) -> None:
        """Make room for a file of this size, with all pages in place.

        Raises:
            MemoryError: there is none.
        """
        if num_bytes <= self.capacity:
            return
        size = num_bytes + num_bytes // _SHARE + _SPARE_BYTES
        size += -size % PAGE
        self._release()
        try:
            if self.fd >= 0:
                os.ftruncate(self.fd, size)
            self._map = map_pages(self.fd, size)
        except OSError as error:
            raise MemoryError(f"No memory for a checkpoint of {num_bytes} bytes: {error.strerror}") from error

    def close(self) -> None:
        """Give the memory back; what still maps it keeps it alive."""
        self._release()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _release(self) -> None:
        if self.unpin is not None:
            self.unpin()
        self.held, self._map, self.unpin = None, None, None


def _anonymous_file() -> int:
    """-1 where there are none, or where they are not allowed: no other process can have the memory, then."""
    if not hasattr(os, "memfd_create"):
        return -1
    try:
        return os.memfd_create("checkpoint", os.MFD_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise
        return -1


def no_op() -> None:
    """What is to be waited for, or undone, when there is nothing."""


def map_pages(fd: int, size: int) -> mmap.mmap:
    """Map a buffer, all its pages at once: each that is touched for the first time costs more than its copy.

    Raises:
        OSError: there is no memory for them. Without these pages a write to them would be the end of the process.
    """
    memory = mmap.mmap(fd, size)
    for advice in (_MADV_HUGEPAGE, _MADV_POPULATE_WRITE):
        try:
            memory.madvise(advice)
        except (OSError, ValueError, AttributeError) as error:
            if getattr(error, "errno", None) in (errno.ENOMEM, errno.EFAULT):
                raise
            # Not on this kernel: the first save pays for it.
    return memory


def available_bytes() -> int | None:
    """Memory that could still be taken on this machine, or in this job's part of it; None if that cannot be told."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for group in _groups():
        with suppress(OSError, ValueError):
            most, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
            found += [int(most) - int(used) + _cached_bytes(group)] if most.isdigit() else []
    return min(found, default=None)


def _cached_bytes(group: Path) -> int:
    """What a control group holds of files, a data set that was read once, say: it gives way to whoever needs memory."""
    with suppress(OSError, ValueError):
        lines = map(str.split, (group / "memory.stat").read_text().splitlines())
        return sum(int(count) for name, count in lines if name in ("inactive_file", "active_file"))
    return 0


def _groups() -> list[Path]:
    """The control groups that may limit this process: of a container, or of a job on a cluster."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                group = Path("/sys/fs/cgroup") / line.removeprefix("0::/")
                return [group, *group.parents[:-3]]
    return []


class BufferPool:
    """The buffers of a run: one in which a save is staged while another one is written, or a single one for both."""

    def __init__(self, count: int) -> None:
        self.buffers = [Buffer() for _ in range(count)]
        self._free = deque(self.buffers)

    @property
    def has_free(self) -> bool:
        """Would `take` find one?"""
        return bool(self._free)

    def take(self) -> Buffer | None:
        """A free one, or None."""
        return self._free.popleft() if self._free else None

    def give_back(self, buffer: Buffer) -> None:
        """Its content is on the disk, or is given up."""
        self._free.append(buffer)

    def close(self) -> None:
        """Give the memory back."""
        for buffer in self.buffers:
            buffer.close()
