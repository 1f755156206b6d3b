"""Where the tensors of a checkpoint go: what `map_location` of `torch.load` means for storages on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def moving_to(map_location: Any) -> Callable[[torch.UntypedStorage], torch.UntypedStorage]:
    """Return a function that moves storages.

    Args:
        map_location: A device, or its name; a dict of names; a function of a storage and its location; None: the CPU.
    """
    if callable(map_location):
        return lambda storage: _untyped(map_location(storage, "cpu"), storage)
    target = map_location.get("cpu", "cpu") if isinstance(map_location, Mapping) else map_location
    device = torch.device("cpu" if target is None else target)
    if device.type == "cpu":
        return lambda storage: storage
    if device.type == "meta":
        return lambda storage: torch.UntypedStorage(storage.nbytes(), device="meta")
    return lambda storage: storage.to(device=device)


def _untyped(moved: Any, storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """A storage that a function has returned; None means that it stays where it is."""
    found: torch.UntypedStorage = storage if moved is None else getattr(moved, "_untyped_storage", moved)
    return found
