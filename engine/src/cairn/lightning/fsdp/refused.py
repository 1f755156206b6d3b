"""What cannot be trained with sharded parameters, or not saved: refused before anything is sharded."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelPruning, WeightAveraging

from cairn.errors import ConfigError
from cairn.lightning.saved import pruning

_CALLBACKS = {
    WeightAveraging: "copies the model before it is sharded, and would average whole weights with parts of them",
    ModelPruning: "replaces parameters, which would no longer be sharded",
}


def check(trainer: Trainer) -> None:
    """Check the callbacks and the model of a trainer.

    Raises:
        ConfigError: One of them does not work with sharded parameters.
    """
    for callback in trainer.callbacks:
        for kind, why in _CALLBACKS.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{type(callback).__name__} {why}: use strategy='ddp' with it, or remove it.")
    if found := sorted(pruning.names(trainer.lightning_module)):
        raise ConfigError(
            f"{found[0]} is pruned, and its mask would not be sharded with it: use strategy='ddp', or make the pruning"
            f" permanent with torch.nn.utils.prune.remove."
        )
