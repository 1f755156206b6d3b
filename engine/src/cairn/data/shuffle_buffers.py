"""Shuffle buffers of iterable datasets: samples that are read and not yet delivered, which many states leave out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from cairn.data.generators import reachable

_LIBRARIES = {"datasets", "webdataset", "wids", "torchdata", "torch", "litdata", "streaming"}
"""Packages whose shuffle buffers are known to be left out of `state_dict()`."""
_SIZES = ("buffer_size", "bufsize", "shuffle_buffer_size")
_NAMES = re.compile(r"buf|shuf|reservoir|pool|heap|window", re.IGNORECASE)


def known_shuffle(dataset: Any) -> str:
    """Return the shuffle of a library whose buffer no state holds, such as `shuffle(buffer_size=1000)`; else ''."""
    for _, item in reachable({"dataset": dataset}):
        kind = type(item)
        packages = {_package(base) for base in kind.__mro__} & _LIBRARIES
        if "shuffle" in kind.__name__.lower() and packages:
            # The one of `datasets` reads a sample before it yields the one in the buffer: one is enough to be lost.
            least = 1 if "datasets" in packages else 2
            for name in _SIZES:
                size = getattr(item, name, None)
                if isinstance(size, int) and size >= least:
                    return f"{kind.__name__}({name}={size})"
    return ""


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


Held = Mapping[str, tuple[int, ...]]
"""Identities of the items in each container, by the path of the container."""


def containers(dataset: Any, iterator: Iterator[Any] | None = None) -> Held:
    """Return the lists, deques and dicts of a dataset whose name is that of a buffer.

    Args:
        dataset: The dataset.
        iterator: An iterator over it, whose local variables are searched as well.
    """
    found = {}
    for path, item in reachable({type(dataset).__name__: dataset, "iter": iterator}):
        if isinstance(item, (list, deque, dict)) and item and _NAMES.search(path.rpartition(".")[2]):
            items: Iterable[Any] = item.values() if isinstance(item, dict) else item
            found[path] = tuple(map(id, items))
    return found


def lost(before: Held, after: Held, state: Any) -> str:
    """Return the path of a container that reading has filled and that the state does not hold; '' if there is none."""
    sizes = set(_sizes(state))
    return next((path for path, held in after.items() if before.get(path) != held and len(held) not in sizes), "")


def _sizes(state: Any) -> Iterator[int]:
    if isinstance(state, (list, tuple, deque, Mapping)):
        yield len(state)
        for part in state.values() if isinstance(state, Mapping) else state:
            yield from _sizes(part)
    elif isinstance(state, (torch.Tensor, np.ndarray)) and state.ndim:
        yield len(state)
