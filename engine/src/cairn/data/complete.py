"""Global batches of an iterable that are complete on all processes: an epoch ends before the first that is not.

    process        reads window k + 1        asks "complete?"        hands out window k        hears the answer, ...

The answer for the next window arrives while a window is trained on. The processes talk over a group of their own, from
CPU to CPU: a value on a GPU would have to wait for all kernels before it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from cairn.data import parallel


@dataclass
class Window:
    """The batches of this process in a global batch."""

    batches: list[Any]
    is_complete: bool
    """False: the first one that this process, or another one, cannot fill, which ends the epoch."""
    num_left: int = 0
    """Samples that were read for it and are left out, if it is not complete."""
    num_samples: int = 0
    """Samples in its batches, if that is known."""


def is_alone() -> bool:
    """Whether there are no other processes to agree with."""
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1)


def on_all(windows: Iterator[Window]) -> Iterator[Window]:
    """Yield the windows that are complete on all processes, then an incomplete one with the samples that all leave out.

    All processes must call this together, and read as many windows.

    Args:
        windows: Those of this process; the last one is incomplete.
    """
    window = next(windows)
    asked = _ask(window)
    while True:
        num_complete, num_left = _answer(asked)
        if num_complete < distributed.get_world_size():
            yield Window([], is_complete=False, num_left=num_left)
            return
        # This process has this window, so it can read the next one.
        following = next(windows)
        asked = _ask(following)
        yield window
        window = following


def _ask(window: Window) -> tuple[torch.Tensor, Any]:
    said = torch.tensor([int(window.is_complete), window.num_samples if window.is_complete else window.num_left])
    return said, distributed.all_reduce(said, group=_group(), async_op=True)


def _answer(asked: tuple[torch.Tensor, Any]) -> tuple[int, int]:
    said, all_have_said = asked
    all_have_said.wait()
    num_complete, num_left = said.tolist()
    return num_complete, num_left // parallel.num_together()


_made: tuple[Callable[[], Any], Callable[[], Any]] | None = None
"""All processes and their group, by weak references, as in parallel.py: torch keeps both as long as they are used."""


def _group() -> Any:
    """The group of CPUs, which all processes make when they first talk; a later fit may have other processes."""
    global _made
    world = distributed.group.WORLD
    if _made is None or _made[0]() is not world or _made[1]() is None:
        group = distributed.new_group(backend="gloo")
        _made = (weakref.ref(world), weakref.ref(group))
    return _made[1]()
