"""Buffers that hold snapshots: memory that is used again for each save, each buffer as large as the file.

The memory is anonymous (memfd_create): the writer process can map it, and it disappears with the last process that maps
it, however that process ends.
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

_SPARE_SHARE = 256
"""Allocate 1/256 extra, so that a slightly larger state still fits."""
_SPARE_BYTES = 2**16
_MADV_HUGEPAGE, _MADV_POPULATE_WRITE = 14, 23  # Linux; Python has no name for the second one yet


class Buffer:
    """Memory for the file of one snapshot.

    Attributes:
        fd: Descriptor of the memory for other processes; -1 if it cannot be shared.
        held: What a copier keeps with the memory: the layout of its content, and tensors that are mapped onto it.
        wait: Returns once the content is complete; raises what the copy has failed with.
        unpin: Releases the memory from the GPU that it was pinned for; None unless pinned.
        num_bytes: Size of the file that the buffer holds now.
        device_s: Seconds that a training GPU stood still for the copy, unseen by the processor; known after `wait`.
    """

    def __init__(self) -> None:
        self.fd = _anonymous_file()
        self._map: mmap.mmap | None = None
        self.held: Any = None
        self.wait: Callable[[], None] = no_op
        self.unpin: Callable[[], None] | None = None
        self.num_bytes = 0
        self.device_s = 0.0

    @property
    def capacity(self) -> int:
        """Size of the memory, in bytes."""
        return 0 if self._map is None else len(self._map)

    @property
    def view(self) -> memoryview:
        """All of the memory."""
        assert self._map is not None, "allocate() comes first"
        return memoryview(self._map)

    def allocate(self, num_bytes: int) -> None:
        """Make room for a file of this size, with all pages in place; its content is lost if the memory has to grow.

        Args:
            num_bytes: Size of the file.

        Raises:
            MemoryError: There is not enough memory.
        """
        if num_bytes <= self.capacity:
            return
        size = num_bytes + num_bytes // _SPARE_SHARE + _SPARE_BYTES
        size += -size % PAGE
        self._release()  # first: the old and the new memory may not fit together
        try:
            if self.fd >= 0:
                os.ftruncate(self.fd, size)
            self._map = map_pages(self.fd, size)
        except OSError as error:
            if error.errno == errno.EFBIG:  # the limit on files holds for memory that processes share, too
                raise MemoryError(
                    f"A checkpoint of {num_bytes} bytes needs a buffer of {size} bytes, and this process may not make "
                    f"files of that size: raise the limit with ulimit -f."
                ) from error
            raise MemoryError(f"No memory for a checkpoint of {num_bytes} bytes: {error.strerror}") from error

    def close(self) -> None:
        """Release the memory; tensors that still map it keep it alive."""
        self._release()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _release(self) -> None:
        if self.unpin is not None:
            self.unpin()
        self.held, self._map, self.unpin = None, None, None


def _anonymous_file() -> int:
    """Return a descriptor; -1 where there are no anonymous files or they are not allowed."""
    if not hasattr(os, "memfd_create"):
        return -1
    try:
        return os.memfd_create("checkpoint", os.MFD_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise
        return -1


def no_op() -> None:
    """No-op default for `wait` and `unpin`."""


def map_pages(fd: int, size: int) -> mmap.mmap:
    """Map memory with all of its pages at once: the first touch of a page costs more than its copy.

    Args:
        fd: Descriptor of a buffer, or -1 for memory of this process alone.
        size: Bytes to map.

    Raises:
        OSError: There is no memory for the pages. A write to missing pages would kill the process (SIGBUS).
    """
    memory = mmap.mmap(fd, size)
    for advice in (_MADV_HUGEPAGE, _MADV_POPULATE_WRITE):
        try:
            memory.madvise(advice)
        except (OSError, ValueError, AttributeError) as error:
            if getattr(error, "errno", None) in (errno.ENOMEM, errno.EFAULT):
                raise
            # Not supported by this kernel: the first save touches the pages instead.
    return memory


def available_bytes() -> int | None:
    """Return the memory that is left on this machine, or to this job or container; None if it is not known."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for group in _groups():
        with suppress(OSError, ValueError):
            limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
            found += [int(limit) - int(used) + _cached_bytes(group)] if limit.isdigit() else []
    return min(found, default=None)


def _cached_bytes(group: Path) -> int:
    """File cache of a control group, such as a data set that was read once: the kernel frees it on demand."""
    with suppress(OSError, ValueError):
        lines = map(str.split, (group / "memory.stat").read_text().splitlines())
        return sum(int(count) for name, count in lines if name in ("inactive_file", "active_file"))
    return 0


def _groups() -> list[Path]:
    """Control groups that may limit this process: those of a container, or of a job on a cluster."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                group = Path("/sys/fs/cgroup") / line.removeprefix("0::/")
                return [group, *group.parents[:-3]]
    return []


class BufferPool:
    """The buffers of a run: with two, a snapshot is copied while another one is written.

    Args:
        count: Number of buffers.
    """

    def __init__(self, count: int) -> None:
        self.buffers = [Buffer() for _ in range(count)]
        self._free = deque(self.buffers)

    @property
    def has_free(self) -> bool:
        """True if `take` would return a buffer."""
        return bool(self._free)

    def take(self) -> Buffer | None:
        """Return a free buffer, or None if all are in use."""
        return self._free.popleft() if self._free else None

    def give_back(self, buffer: Buffer) -> None:
        """Make a buffer free again: its content is committed, or given up."""
        self._free.append(buffer)

    def close(self) -> None:
        """Release all memory."""
        for buffer in self.buffers:
            buffer.close()
