"""What would depend on the number of processes: refused before the first batch."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import LBFGS
from torchmetrics.wrappers import Running

from cairn.data import parallel
from cairn.errors import ConfigError
from cairn.lightning.bits import divided_optimizer, turns
from cairn.lightning.bits.sharded import name_of
from cairn.lightning.loops import parts
from cairn.lightning.reading import modules
from cairn.lightning.saved import block, placed


def check(trainer: Trainer, num_virtual: int) -> None:
    """Check a fit with virtual ranks.

    Raises:
        ConfigError: Something in it depends on the number of processes; the message says what to use instead.
    """
    module, strategy = trainer.lightning_module, trainer.strategy
    found = [part for _, part in modules.named(module)]
    why = ""
    if not module.automatic_optimization:
        why = "manual optimization makes its steps itself: use automatic optimization"
    elif parallel.num_together() > 1:
        why = "with tensor parallelism, several processes compute each batch: set tensor_parallel_size=1"
    elif getattr(trainer.precision_plugin, "scaler", None) is not None:
        why = "precision='16-mixed' scales the loss by what the batches before have shown: use 'bf16-mixed'"
    elif any(isinstance(one, LBFGS) for one in trainer.optimizers):
        why = "LBFGS asks for the gradients of a batch several times: use another optimizer"
    elif _has_sync_batchnorm(trainer, found) and num_virtual > trainer.world_size:
        why = (
            f"SyncBatchNorm needs all {num_virtual} virtual ranks at the same time, and there are"
            f" {trainer.world_size} processes: use BatchNorm (sync_batchnorm=False), whose statistics follow virtual"
            f" rank 0, or {num_virtual} processes"
        )
    elif any(getattr(part, "sparse", False) for part in found if isinstance(part, nn.Embedding | nn.EmbeddingBag)):
        why = "an embedding with sparse=True has sparse gradients, which are not added up in a tree: use sparse=False"
    elif any(getattr(strategy, name, None) is not None for name in ("_ddp_comm_hook", "_model_averager")):
        why = "ddp_comm_hook and model_averager exchange gradients or weights in their own order: leave them out"
    elif any(getattr(one, "_post_accumulate_grad_hooks", None) for one in module.parameters()):
        why = "a hook of register_post_accumulate_grad_hook sees the gradients of single batches: remove it"
    elif text := _metric(module) or _strategy(strategy, module):
        why = text
    elif placed.is_sharded(module):
        why = _sharded(trainer)
    if why:
        raise ConfigError(
            f"elastic='bits' cannot keep its promise here: {why}; or use elastic='samples'.", parameter="elastic"
        )


def _strategy(strategy: Strategy, module: LightningModule) -> str:
    if isinstance(strategy, SingleDeviceStrategy | DDPStrategy) or placed.is_sharded(module):
        return ""
    return f"{type(strategy).__name__} adds up gradients in its own order: use DDP, FSDP2Strategy, or one device"


def _sharded(trainer: Trainer) -> str:
    """Return what is wrong with sharded parameters, on one process as well: the run may move to others."""
    module = trainer.lightning_module
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    if not all(hasattr(part, "set_reduce_scatter_unused_params") for part in sharded):
        return (
            f"torch {torch.__version__} cannot exchange the gradients of FSDP2 in the order of the tree: use torch 2.13"
        )
    meshes = [one.device_mesh for one in module.parameters() if isinstance(one, DTensor)]
    if any(mesh.ndim > 1 or mesh.size() != trainer.world_size for mesh in meshes):
        return "a mesh of several dimensions (tensor parallelism) computes each layer in parts: shard in one dimension"
    if any(block.divided_dims(one) - {0} for one in module.parameters() if isinstance(one, DTensor)):
        return "shard_placement_fn divides columns, whose norms are summed by rows: divide the first dimension"
    if hooked := [name for name, one in module.named_parameters() if one._backward_hooks]:
        return f"a hook of register_hook on {hooked[0]} never sees a gradient with FSDP2, and does with DDP: remove it"
    if any(_moves_gradients(part) for part in sharded):
        return "CPUOffloadPolicy moves gradients while they are added up: shard without it"
    if any(_changes_type(part) for part in sharded):
        return "gathering or reducing in bfloat16 rounds what DDP does not: use gather_in_bf16=False"
    owners: list[tuple[Any, Any]] = [(module, LightningModule), *((one, Callback) for one in trainer.callbacks)]
    for owner, parent in owners:
        if is_overridden("on_after_backward", owner, parent=parent):
            return (
                f"on_after_backward of {name_of(owner)} sees the gradients of each batch, which no process"
                f" has with FSDP2: use on_before_optimizer_step, which sees their mean"
            )
    return next(filter(None, map(divided_optimizer.why_not, trainer.optimizers)), "")


def _changes_type(part: FSDPModule) -> bool:
    policy = part._get_fsdp_state()._mp_policy
    return any((policy.param_dtype, policy.reduce_dtype, policy.output_dtype))


def _moves_gradients(part: FSDPModule) -> bool:
    groups = part._get_fsdp_state()._fsdp_param_groups
    return any(isinstance(group.offload_policy, CPUOffloadPolicy) for group in groups)


def _has_sync_batchnorm(trainer: Trainer, found: list[nn.Module]) -> bool:
    if any(isinstance(part, nn.SyncBatchNorm) for part in found):
        return True
    return parts.converts_batchnorm(trainer) and any(isinstance(part, _BatchNorm) for part in found)


def _metric(module: Any) -> str:
    for name, metric in modules.named(module):
        if not modules.is_metric(metric):
            continue
        if isinstance(metric, Running):
            return f"the metric {name} ({type(metric).__name__}) counts its values in each process: log the values"
        for state, default in metric._defaults.items():
            if isinstance(default, list) and metric._reductions[state] in (None, turns.dim_zero_cat):
                continue
            try:
                turns.reduction(metric, state)
            except KeyError:
                return (
                    f"the metric {name} ({type(metric).__name__}) combines its state {state!r} of several processes in"
                    f" its own way: log the values themselves, by self.log"
                )
    return ""
