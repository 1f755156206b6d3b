"""Floors of a checkpoint on this machine: copying the state, and writing its bytes to the disk."""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import workload

_CHUNK_BYTES = 16 * 2**20
_ALIGNMENT = 4096  # of what O_DIRECT writes, in memory and on the disk


def measure(size: str, directory: Path, device: str, repeats: int) -> dict[str, float | int | list[float] | None]:
    """Measure all floors for a size, in seconds; lists hold one value per repetition."""
    torch.set_num_threads(1)  # one copying thread: the others are training
    state = workload.state_tensors(workload.SIZES[size])
    num_bytes = workload.num_state_bytes(state)
    content = mmap.mmap(-1, num_bytes + -num_bytes % _ALIGNMENT)  # page-aligned, as O_DIRECT wants it
    for start in range(0, num_bytes, _CHUNK_BYTES):  # random: no disk may shrink or drop it
        content[start : start + _CHUNK_BYTES] = os.urandom(min(_CHUNK_BYTES, len(content) - start))
    path = directory / "floor.bin"
    buffered = [_write_s(path, content, num_bytes, 0) for _ in range(repeats)]
    try:
        direct = [_write_s(path, content, len(content), _o_direct()) for _ in range(repeats)]
    except OSError:  # not every file system takes it
        direct = None
    return {
        "state_bytes": num_bytes,
        "num_tensors": len(state),
        "copy_s": _copies(state, device, repeats=3 * repeats),
        "write_s": buffered,
        "write_direct_s": direct,
    }


def _copies(state: list[Tensor], device: str, repeats: int) -> list[float]:
    """Time copies into warm buffers, which are page-locked on CUDA."""
    pinned = device == "cuda"
    source = [tensor.to(device) for tensor in state]
    buffers = [torch.empty(tensor.shape, pin_memory=pinned).fill_(0) for tensor in state]

    def copy() -> None:
        for buffer, tensor in zip(buffers, source, strict=True):
            buffer.copy_(tensor, non_blocking=pinned)
        if pinned:
            torch.cuda.synchronize()

    copy()
    return [_timed(copy) for _ in range(repeats)]


def _write_s(path: Path, content: mmap.mmap, num_bytes: int, flags: int) -> float:
    """Time the write of a new file; its deletion is not timed."""
    try:
        return _timed(lambda: _write(path, content, num_bytes, flags))
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, content: mmap.mmap, num_bytes: int, flags: int) -> None:
    file = os.open(path, flags | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(content)
        for start in range(0, num_bytes, _CHUNK_BYTES):
            os.write(file, view[start : min(start + _CHUNK_BYTES, num_bytes)])
        view.release()
        os.fsync(file)
    finally:
        os.close(file)


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _o_direct() -> int:
    flag: int | None = getattr(os, "O_DIRECT", None)
    if flag is None:
        raise OSError("this system has no O_DIRECT")
    return flag


if __name__ == "__main__":
    size, directory, device, repeats = sys.argv[1:]
    print(json.dumps(measure(size, Path(directory), device, int(repeats))))
