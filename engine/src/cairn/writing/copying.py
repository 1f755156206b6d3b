"""The snapshot: copies a state into a buffer in memory, from where it is written while training goes on.

Parameters and optimizer states should change in an optimizer's step and nowhere else. With `overlap` their copy may go
on during the next forward and backward, and is complete before the next step begins (if they changed before, the save
fails and says so); all other tensors are copied at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cairn.errors import SaveError
from cairn.store.file_format import Layout
from cairn.writing.buffers import Buffer, no_op
from cairn.writing.encode import Encoded, TensorSpec

_ByStorage = dict[int, list[Tensor]]
"""By the address of their storage, the tensors that nothing may change for a while: they themselves, since a change in
place shows at them, and not at another view that was made of the storage."""


@dataclass(frozen=True)
class _Places:
    """Where the tensors of a state go in one buffer."""

    specs: list[TensorSpec]
    layout: Layout
    tensors: list[Tensor]
    """Of the same type, shape and strides as those that are copied to them."""


@dataclass(frozen=True)
class _Copies:
    """What is to be copied, and where to."""

    places: list[Tensor]
    sources: list[Tensor]

    def split(self, later: Callable[[Tensor], bool]) -> tuple[_Copies, _Copies]:
        """Those that are made at once, and those that may be later."""
        now, rest = _Copies([], []), _Copies([], [])
        for place, source in zip(self.places, self.sources, strict=True):
            copies = rest if later(source) else now
            copies.places.append(place)
            copies.sources.append(source)
        return now, rest


class Copier:
    """Copies one state after the other.

    Args:
        overlap: let the copy of what only an optimizer's step changes go on during the next forward and backward.
    """

    def __init__(self, overlap: bool = False) -> None:
        self.overlap = overlap
        self._layout = Layout(())
        self._pending: Callable[[], None] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._stream: Any = None

    def _layout_of(self, encoded: Encoded) -> Layout:
        """Where everything goes in the file; the one of the last save, if it still fits."""
        if self._layout.sizes != encoded.sizes:
            self._layout = Layout(encoded.sizes)
        return self._layout

    def copy(self, encoded: Encoded, buffer: Buffer, deferrable: Iterable[Tensor] = ()) -> None:
        """Put the file of a state together in `buffer`.

        Args:
            encoded: the state.
            buffer: a free one; its `wait` tells when the copy is complete.
            deferrable: parameters and optimizer states, see `optimizer_tensors`.
        """
        self.finish()
        layout = self._layout_of(encoded)
        on_gpu = any(part.is_cuda for part in encoded.storages)
        self.prepare(buffer, layout.num_bytes(len(encoded.pickle)), on_gpu)
        places = self._places(encoded, buffer, layout)
        buffer.num_bytes, buffer.device_s = layout.write_tail(buffer.view, encoded.pickle), 0.0
        now, later = _Copies(places.tensors, encoded.storages), _Copies([], [])
        watched = _group_by_storage(deferrable) if self.overlap else {}
        if watched:
            now, later = now.split(lambda source: _address(source) in watched)
        if on_gpu:
            self._copy_from_gpu(now, later, watched, buffer)
        else:
            self._copy_from_cpu(now, later, watched, buffer)

    def prepare(self, buffer: Buffer, num_bytes: int, on_gpu: bool) -> None:
        """Make room in `buffer` for a file of this size: before the first save, so that it does not wait for pages.

        Raises:
            MemoryError: there is none.
        """
        buffer.allocate(num_bytes)
        if on_gpu and buffer.unpin is None:
            buffer.unpin = _pinned(buffer)

    def finish(self) -> float:
        """Return when nothing that is still being copied would notice a step of an optimizer.

        Returns:
            how long that took, in seconds.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return 0.0
        started = time.monotonic()
        pending()
        return time.monotonic() - started

    def close(self) -> None:
        """Let the thread go that copies, when it is done; if its copy has failed, the save says so."""
        with suppress(Exception):
            self.finish()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _places(self, encoded: Encoded, buffer: Buffer, layout: Layout) -> _Places:
        places: _Places | None = buffer.held
        if places is None or places.layout is not layout or places.specs != encoded.specs:
            layout.write_frame(buffer.view)
            memory = torch.frombuffer(buffer.view, dtype=torch.uint8)
            typed = {dtype: memory.view(dtype) for dtype in {spec[0] for spec in encoded.specs}}
            tensors = [
                typed[dtype].as_strided(shape, strides, at // dtype.itemsize)
                for at, (dtype, shape, strides, _) in zip(layout.offsets, encoded.specs, strict=True)
            ]
            places = buffer.held = _Places(encoded.specs, layout, tensors)
        return places

    def _copy_from_cpu(self, now: _Copies, later: _Copies, watched: _ByStorage, buffer: Buffer) -> None:
        _copy(now)
        buffer.wait = no_op
        if later.sources:
            self._pool = self._pool or ThreadPoolExecutor(1, "checkpoint-copy")
            future: Future[None] = self._pool.submit(_copy_unchanged, later, watched, _versions(watched))
            buffer.wait = future.result
            self._pending = lambda: _wait_for(future)

    def _copy_from_gpu(self, now: _Copies, later: _Copies, watched: _ByStorage, buffer: Buffer) -> None:
        """On a stream of its own, behind what was computed so far; the computation waits, the processor does not."""
        device, *others = {source.device for source in (*now.sources, *later.sources) if source.is_cuda}
        for other in others:  # a model that is spread over several: one stream cannot order them all
            torch.cuda.synchronize(other)
        compute = torch.cuda.current_stream(device)
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(compute)
        began, first, last, needed = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(4))
        with torch.cuda.stream(self._stream):
            began.record(self._stream)
            _copy(now, non_blocking=not others)
            first.record(self._stream)
            _copy(later, non_blocking=not others)
            last.record(self._stream)
        compute.wait_event(first)
        sources = [*now.sources, *later.sources]  # their memory must not get other uses before
        versions, changed, checked = _versions(watched), False, threading.Event()

        def finish() -> None:
            nonlocal changed
            needed.record(torch.cuda.current_stream(device))
            torch.cuda.current_stream(device).wait_event(last)
            changed = _versions(watched) != versions
            checked.set()

        def arrive() -> None:
            with torch.cuda.device(device):
                last.synchronize()
            sources.clear()
            checked.wait()
            with torch.cuda.device(device):
                needed.synchronize()
            stood_ms = began.elapsed_time(first) + max(0.0, needed.elapsed_time(last))
            buffer.device_s = stood_ms / 1e3
            if changed:
                raise SaveError(_CHANGED)

        buffer.wait, self._pending = arrive, finish
        if not later.sources:
            self.finish()


def optimizer_tensors(optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """What should change in an optimizer's step only: its parameters, and what it remembers of them.

    Not all parameters of a module: those of an averaged teacher, say, are in no optimizer and may change in forward.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _group_by_storage(tensors: Iterable[Tensor]) -> _ByStorage:
    found: _ByStorage = {}
    for tensor in tensors:
        found.setdefault(_address(tensor), []).append(tensor)
    return found


def _copy(copies: _Copies, non_blocking: bool = False) -> None:
    """In one call, since of many small ones the calls would take longer than the bytes."""
    if copies.sources:
        with torch.no_grad():
            torch._foreach_copy_(copies.places, copies.sources, non_blocking=non_blocking)


def _wait_for(future: Future[None]) -> None:
    wait([future])  # whether it has failed, the save tells


def _copy_unchanged(copies: _Copies, watched: _ByStorage, versions: Mapping[int, list[int]]) -> None:
    for place, source in zip(copies.places, copies.sources, strict=True):
        where = _address(source)
        _copy(_Copies([place], [source]))
        if [tensor._version for tensor in watched[where]] != versions[where]:
            raise SaveError(_CHANGED)


def _versions(watched: _ByStorage) -> dict[int, list[int]]:
    """How often each was changed in place so far: torch counts it, but for writes to `tensor.data`."""
    return {where: [tensor._version for tensor in tensors] for where, tensors in watched.items()}


_CHANGED = (
    "Weights were changed outside of an optimizer's step (in forward, by clamping, by a renormalizing embedding) while "
    "they were copied for a checkpoint: checkpoint.overlap=false copies them at once."
)


def _pinned(buffer: Buffer) -> Callable[[], None]:
    """Let the GPU write there by itself; returns how to undo it. Where CUDA refuses that, the copy is slower."""
    memory = torch.frombuffer(buffer.view, dtype=torch.uint8)
    runtime, address = torch.cuda.cudart(), memory.data_ptr()
    if runtime.cudaHostRegister(address, memory.nbytes, 0) != runtime.cudaError.success:
        with suppress(RuntimeError):  # CUDA tells its last error again, to whoever comes next: let it be us
            torch.zeros(1, device="cuda")
        return no_op
    return lambda: runtime.cudaHostUnregister(address)
