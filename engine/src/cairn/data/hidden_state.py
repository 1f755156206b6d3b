"""What the samples of a loader depend on, and no checkpoint holds."""

from __future__ import annotations

from typing import Any

from torch.utils.data import IterableDataset, default_collate, default_convert

from cairn.data import copies
from cairn.data.iterable import is_stateful
from cairn.data.loader import DataLoader
from cairn.data.seeding import SeededCollate, SeededItems


def hidden_state(loader: DataLoader) -> str:
    """Return what the samples depend on, and no checkpoint holds, as a part of a sentence; '' if nothing is found.

    Copies of the data are tried, for at most some seconds. Data that cannot be copied is not tried.
    """
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return ""
    items = dataset.wrapped if isinstance(dataset, SeededItems) else dataset
    collate: Any = loader.collate_fn
    collate = collate.collate if isinstance(collate, SeededCollate) else collate
    collate = None if collate in (default_collate, default_convert) else collate
    in_main_process = loader.num_workers == 0
    if in_main_process and is_stateful(items):
        return ""
    found = copies.changing_sample(items, collate, loader.seed, in_main_process or loader.persistent_workers)
    if not found and not in_main_process and (name := copies.moving_attribute(items, collate, loader.seed)):
        found = f"{name} changes in the workers whenever a sample is read"
    return found
