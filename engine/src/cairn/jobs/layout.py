"""How many nodes a run has, and how many processes on each: srun or torchrun knows, also after a node was lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cairn.errors import ConfigError
from cairn.jobs.rendezvous import own_rank


@dataclass(frozen=True)
class Layout:
    """The processes that were started together."""

    num_nodes: int
    per_node: int
    """Processes on each node."""


def layout(environ: Mapping[str, str] = os.environ) -> Layout | None:
    """Return what srun or torchrun has started; None if this process is alone, or starts the others itself.

    Raises:
        ConfigError: The nodes have different numbers of processes.
    """
    world_size = own_rank(environ).world_size
    if "TORCHELASTIC_RUN_ID" in environ:
        num_nodes, per_node = (int(environ[name]) for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    elif world_size > 1:
        num_nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
        per_node = world_size // num_nodes
    else:
        return None
    if num_nodes * per_node != world_size:
        raise ConfigError(
            f"{world_size} processes were started on {num_nodes} nodes, and a node has another number of them than the"
            f" others: start as many on each node.",
            parameter="trainer.num_nodes",
        )
    return Layout(num_nodes, per_node)
