"""Which processes get the same batches: those that compute one batch together, with tensor parallelism.

process                     0  1  2  3
2 compute a batch together  0  0  1  1      the number by which batches and samples are divided

`cairn.FSDP2Strategy` says how many do. Strategies of Lightning do not: their processes are known by the names of their
groups, and refused, because each of them would get batches of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from cairn.errors import DataError

# Weak references: a group that is kept alive keeps its threads, and one that a forked process inherits would wait for
# threads that are not there when it is let go.
_together: tuple[Callable[[], Any], int] | None = None
"""The processes of a fit, and how many of them get the same batches."""
_known: tuple[Callable[[], Any], set[str]] = (lambda: None, set())
"""The processes of a fit, and names of the groups that strategies have made that say so."""
_DATA, _TENSOR = "mesh_data_parallel", "mesh_tensor_parallel"
"""What torch calls the groups of a mesh with these dimensions, which Lightning makes."""


def compute_together(number: int) -> None:
    """Give the same batches to neighbouring processes, as long as this process group exists.

    Args:
        number: How many of them compute one batch; 1: each has batches of its own.
    """
    global _together, _known
    world = weakref.ref(torch.distributed.group.WORLD)
    _known = world, {*_groups()}
    _together = (world, number) if number > 1 else None


def num_together() -> int:
    """Return how many processes get the same batches."""
    if _together is None or not torch.distributed.is_initialized():
        return 1
    group, number = _together
    return number if group() is torch.distributed.group.WORLD else 1


def share(rank: int, world_size: int) -> tuple[int, int]:
    """Return the number by which a process gets batches, and how many numbers there are.

    Args:
        rank: Rank of the process.
        world_size: Number of processes.

    Raises:
        DataError: A strategy lets some of them compute a batch together, and does not say so.
    """
    number = num_together()
    if number == 1 and world_size > 1:
        _check_known(world_size)
    return rank // number, world_size // number


def _check_known(world_size: int) -> None:
    world, known = _known
    known = known if world() is torch.distributed.group.WORLD else set()
    found = {kind: size for name, (kind, size) in _groups().items() if name not in known}
    # A group of all processes has another name: then those of the other dimension have one process each.
    together = found.get(_TENSOR, world_size if found.get(_DATA) == 1 else 1)
    if together > 1:
        raise DataError(
            f"{together} processes compute each batch together (tensor parallelism), and cairn.DataLoader would give"
            f" each of them another one: use cairn.FSDP2Strategy(tensor_parallel_size={together}), which says so to"
            f" the loader, or torch's DataLoader, which Lightning divides among the groups."
        )


def _groups() -> dict[str, tuple[str, int]]:
    """Return kind and size of the groups of this process in such a mesh, by name."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return {}
    groups = [one for one in torch.distributed.distributed_c10d._world.pg_map if hasattr(one, "group_desc")]
    return {one.group_name: (one.group_desc, one.size()) for one in groups if one.group_desc in (_DATA, _TENSOR)}
