"""Shards a model: rank 0 sends its values part by part, and each rank keeps its rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from cairn.errors import ConfigError
from cairn.lightning.fsdp import synced

log = logging.getLogger(__name__)


def shard(
    model: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, device: torch.device, policy: MixedPrecisionPolicy
) -> None:
    """Shard a model in place. Every rank must call this.

    Args:
        model: The model, with data on rank 0.
        blocks: Its parts that are sharded on their own; inner ones first.
        mesh: The processes.
        device: Where the rows of this rank go.
        policy: Types in which parameters are gathered and gradients reduced.
    """
    owners = synced.owners(model)
    for part in (*blocks, model):
        synced.fill(part, owners, device)
        fully_shard(part, mesh=mesh, mp_policy=policy)
    kinds = ", ".join(sorted({type(block).__mro__[2].__name__ for block in blocks}))  # below the classes of torch
    rank_zero_only(log.info)(
        "Sharded among %d process%s: %s.",
        mesh.size(),
        "" if mesh.size() == 1 else "es",
        f"{len(blocks)} blocks ({kinds}), and the rest together" if blocks else "the whole model together",
    )


def policy(precision: str, gather_in_bf16: bool) -> MixedPrecisionPolicy:
    """Return the types in which parameters are gathered and gradients reduced.

    Args:
        precision: Precision of the trainer; autocast computes in it.
        gather_in_bf16: Gather in bfloat16, and reduce gradients in float32 as always.

    Raises:
        ConfigError: They contradict each other.
    """
    if not gather_in_bf16:
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision != "bf16-mixed":
        raise ConfigError(
            f"gather_in_bf16=True needs precision='bf16-mixed', and it is {precision!r}.", parameter="gather_in_bf16"
        )
    return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
