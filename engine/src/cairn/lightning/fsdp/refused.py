"""What cannot be trained with sharded parameters, or not saved: refused before anything is sharded."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelPruning, WeightAveraging
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from cairn.errors import ConfigError
from cairn.lightning.saved import pruning

_CALLBACKS = {
    WeightAveraging: "copies the model before it is sharded, and would average whole weights with parts of them",
    ModelPruning: "replaces parameters, which would no longer be sharded",
}


def check(trainer: Trainer) -> None:
    """Check the callbacks and the model of a trainer.

    Raises:
        ConfigError: One of them, or a parameter, does not work with sharded parameters.
    """
    check_batchnorm(trainer)
    for callback in trainer.callbacks:
        for kind, why in _CALLBACKS.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{type(callback).__name__} {why}: use strategy='ddp' with it, or remove it.")
    if found := sorted(pruning.names(trainer.lightning_module)):
        raise ConfigError(
            f"{found[0]} is pruned, and its mask would not be sharded with it: use strategy='ddp', or make the pruning"
            f" permanent with torch.nn.utils.prune.remove."
        )
    for name, parameter in trainer.lightning_module.named_parameters():
        if isinstance(parameter, DTensor):
            continue
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise ConfigError(
                f"A hook on the gradient of {name} (register_hook) would be lost, because a part of it takes the place"
                f" of the parameter: change gradients in on_before_optimizer_step, or use strategy='ddp'."
            )
        if not parameter.ndim:
            raise ConfigError(
                f"{name} has no dimension in which it could be sharded: give it the shape (1,), or use strategy='ddp'."
            )


def check_batchnorm(trainer: Trainer) -> None:
    """Check that statistics are not synchronized between CPUs, of which torch is not capable.

    Raises:
        ConfigError: They are.
    """
    strategy = trainer.strategy
    if trainer.world_size == 1 or strategy.root_device.type != "cpu":
        return
    kind = nn.SyncBatchNorm if getattr(strategy, "_layer_sync", None) is None else _BatchNorm
    found = [
        name for name, part in trainer.lightning_module.named_modules() if isinstance(part, kind) and part.training
    ]
    if found:
        raise ConfigError(
            f"{found[0]} would synchronize its statistics between processes (SyncBatchNorm), which torch can do on GPUs"
            f" only: on CPUs, use BatchNorm with sync_batchnorm=False, or another normalization.",
            parameter="sync_batchnorm",
        )
