"""Copies a state into a buffer in memory, from where it is written while training continues.

With `overlap` the copy has two phases. What only an optimizer's step may change (parameters, and the optimizer's own
tensors) is copied during the next forward and backward; everything else is copied at once:

    boundary           forward, backward            finish()   step
       |-- everything else --|                         |
       |                     |-- optimizer's tensors --|
       |                     |   (a change of one of them fails the save)

torch counts the changes in place of each tensor (`_version`), so a change too early is noticed instead of written.
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
"""Tensors that must not change for a while, by the address of their storage. The original tensors: a change in place
does not count in another view of the same storage."""


@dataclass(frozen=True)
class _Targets:
    """Tensors that are mapped onto one buffer, as the targets of a copy."""

    specs: list[TensorSpec]
    layout: Layout
    tensors: list[Tensor]
    """With the types, shapes and strides of their sources."""


@dataclass(frozen=True)
class _Copies:
    """Pairs of tensors to copy."""

    targets: list[Tensor]
    sources: list[Tensor]

    def split(self, later: Callable[[Tensor], bool]) -> tuple[_Copies, _Copies]:
        """Split into copies to make at once, and copies that may be made later."""
        now, rest = _Copies([], []), _Copies([], [])
        for target, source in zip(self.targets, self.sources, strict=True):
            copies = rest if later(source) else now
            copies.targets.append(target)
            copies.sources.append(source)
        return now, rest


class Copier:
    """Copies one state after the other into buffers.

    Args:
        overlap: Copy what only an optimizer's step changes during the next forward and backward.
    """

    def __init__(self, overlap: bool = False) -> None:
        self.overlap = overlap
        self._layout = Layout(())
        self._pending: Callable[[], None] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._stream: Any = None

    def _layout_of(self, encoded: Encoded) -> Layout:
        """Layout of the file; that of the last save if it still fits."""
        if self._layout.sizes != encoded.sizes:
            self._layout = Layout(encoded.sizes)
        return self._layout

    def copy(self, encoded: Encoded, buffer: Buffer, deferrable: Iterable[Tensor] = ()) -> None:
        """Assemble the file of a state in a buffer.

        Args:
            encoded: The state.
            buffer: A free buffer; the copy is complete once its `wait` returns.
            deferrable: Tensors whose copy may overlap with training, see `optimizer_tensors`.

        Raises:
            MemoryError: There is not enough memory.
        """
        self.finish()
        layout = self._layout_of(encoded)
        on_gpu = any(part.is_cuda for part in encoded.storages)
        self.prepare(buffer, layout.num_bytes(len(encoded.pickle)), on_gpu)
        targets = _targets(encoded, buffer, layout)
        buffer.num_bytes, buffer.device_s = layout.write_tail(buffer.view, encoded.pickle), 0.0
        now, later = _Copies(targets.tensors, encoded.storages), _Copies([], [])
        watched = _group_by_storage(deferrable) if self.overlap else {}
        if watched:
            now, later = now.split(lambda source: _address(source) in watched)
        if on_gpu:
            self._copy_from_gpu(now, later, watched, buffer)
        else:
            self._copy_from_cpu(now, later, watched, buffer)

    def prepare(self, buffer: Buffer, num_bytes: int, on_gpu: bool) -> None:
        """Make room in a buffer; called before training too, so that the first save does not wait for pages.

        Args:
            buffer: A free buffer.
            num_bytes: Size of the file.
            on_gpu: Pin the memory, so that a GPU can write to it by itself.

        Raises:
            MemoryError: There is not enough memory.
        """
        buffer.allocate(num_bytes)
        if on_gpu and buffer.unpin is None:
            buffer.unpin = _pin(buffer)

    @property
    def overlaps(self) -> bool:
        """Whether a copy is under way, see `finish`."""
        return self._pending is not None

    def finish(self) -> float:
        """Return once an optimizer's step cannot change what is still being copied; call it before each step.

        Returns:
            Seconds that training waited for it.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return 0.0
        started = time.monotonic()
        pending()
        return time.monotonic() - started

    def close(self) -> None:
        """End the copying thread once it is done; an error of its copy is raised by `Buffer.wait`."""
        with suppress(Exception):
            self.finish()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _copy_from_cpu(self, now: _Copies, later: _Copies, watched: _ByStorage, buffer: Buffer) -> None:
        _copy(now)
        buffer.wait = no_op
        if later.sources:
            self._pool = self._pool or ThreadPoolExecutor(1, "checkpoint-copy")
            future: Future[None] = self._pool.submit(_copy_unchanged, later, watched, _versions(watched))
            buffer.wait = future.result
            self._pending = lambda: _wait_for(future)

    def _copy_from_gpu(self, now: _Copies, later: _Copies, watched: _ByStorage, buffer: Buffer) -> None:
        """Copy on a stream of its own, after what was computed so far; only the GPU waits, not the processor.

        compute stream   batch | wait for "now" | forward, backward | wait for "later" | step
        copy stream            | now            | later ...                            |
        event                began            first               needed             last
        """
        device, *others = {source.device for source in (*now.sources, *later.sources) if source.is_cuda}
        for other in others:  # the model is spread over several GPUs, which one stream cannot order
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
        sources = [*now.sources, *later.sources]  # held until the copy is complete: torch would reuse their memory
        versions, changed, checked = _versions(watched), False, threading.Event()

        def finish() -> None:
            nonlocal changed
            # The step is queued behind the copy; `needed` marks when the GPU could have begun it.
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


def _targets(encoded: Encoded, buffer: Buffer, layout: Layout) -> _Targets:
    """Tensors in the buffer for this layout; most saves find those of the save before."""
    targets: _Targets | None = buffer.held
    if targets is None or targets.layout is not layout or targets.specs != encoded.specs:
        layout.write_frame(buffer.view)
        memory = torch.frombuffer(buffer.view, dtype=torch.uint8)
        typed = {dtype: memory.view(dtype) for dtype in {spec[0] for spec in encoded.specs}}
        tensors = [
            typed[dtype].as_strided(shape, strides, at // dtype.itemsize)
            for at, (dtype, shape, strides, _) in zip(layout.offsets, encoded.specs, strict=True)
        ]
        targets = buffer.held = _Targets(encoded.specs, layout, tensors)
    return targets


def optimizer_tensors(optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """Return the tensors that should change only in an optimizer's step: its parameters and its state.

    Other parameters of a module are left out: those of an averaged teacher, for example, may change in forward.

    Args:
        optimizers: All optimizers of the training.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from map(_local, group["params"])
        for state in optimizer.state.values():
            yield from (_local(value) for value in state.values() if isinstance(value, Tensor))


def _local(tensor: Tensor) -> Tensor:
    """Return what this rank has of a sharded tensor: the memory that an optimizer changes."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _group_by_storage(tensors: Iterable[Tensor]) -> _ByStorage:
    found: _ByStorage = {}
    for tensor in tensors:
        found.setdefault(_address(tensor), []).append(tensor)
    return found


def _copy(copies: _Copies, non_blocking: bool = False) -> None:
    """Copy all in one call: with many small tensors, single calls would take longer than the bytes."""
    if copies.sources:
        with torch.no_grad():
            torch._foreach_copy_(copies.targets, copies.sources, non_blocking=non_blocking)


def _wait_for(future: Future[None]) -> None:
    wait([future])  # does not raise: the save reports an error of the copy


def _copy_unchanged(copies: _Copies, watched: _ByStorage, versions: Mapping[int, list[int]]) -> None:
    """Copy, and fail at the first tensor that has changed since the copy was begun."""
    for target, source in zip(copies.targets, copies.sources, strict=True):
        address = _address(source)
        _copy(_Copies([target], [source]))
        if [tensor._version for tensor in watched[address]] != versions[address]:
            raise SaveError(_CHANGED)


def _versions(watched: _ByStorage) -> dict[int, list[int]]:
    """Number of changes in place of each tensor so far; torch counts all except writes to `tensor.data`."""
    return {address: [tensor._version for tensor in tensors] for address, tensors in watched.items()}


_CHANGED = (
    "Weights changed outside of an optimizer's step (in forward, by clamping, by a renormalizing embedding) while they "
    "were copied for a checkpoint. Set overlap=false to copy them at once."
)


def _pin(buffer: Buffer) -> Callable[[], None]:
    """Let the GPU write to the buffer by itself, and return how to undo it; if CUDA refuses, the copy is slower."""
    memory = torch.frombuffer(buffer.view, dtype=torch.uint8)
    runtime, address = torch.cuda.cudart(), memory.data_ptr()
    if runtime.cudaHostRegister(address, memory.nbytes, 0) != runtime.cudaError.success:
        with suppress(RuntimeError):  # CUDA raises its last error again at the next call: let that be this one
            torch.zeros(1, device="cuda")
        return no_op
    return lambda: runtime.cudaHostUnregister(address)
