"""Weights & Biases: metrics, checkpoints as artifacts, and a later `sync`. In here, `import wandb` is W&B's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.wandb.artifacts import Artifacts
    from cairn.wandb.logger import WandbLogger

__all__ = ["Artifacts", "WandbLogger"]


def __getattr__(name: str) -> Any:
    # On demand: the logger imports Lightning.
    if name == "Artifacts":
        from cairn.wandb.artifacts import Artifacts

        return Artifacts
    if name == "WandbLogger":
        from cairn.wandb.logger import WandbLogger

        return WandbLogger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
