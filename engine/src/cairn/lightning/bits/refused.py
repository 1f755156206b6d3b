"""What would depend on the number of processes: refused before the first batch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import LBFGS
from torchmetrics.wrappers import Running

from cairn.data import parallel
from cairn.errors import ConfigError
from cairn.lightning.bits import turns
from cairn.lightning.loops import parts
from cairn.lightning.reading import modules


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
    elif text := _metric(module):
        why = text
    if why:
        raise ConfigError(
            f"elastic='bits' cannot keep its promise here: {why}; or use elastic='samples'.", parameter="elastic"
        )


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
