"""Weights & Biases: metrics, checkpoints as artifacts, and a later `sync`. In here, `import wandb` is W&B's client."""

from __future__ import annotations

from typing import Any

__all__ = ["Artifacts"]


def __getattr__(name: str) -> Any:
    if name == "Artifacts":
        from cairn.wandb.artifacts import Artifacts

        return Artifacts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
