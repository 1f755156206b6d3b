"""Cairn: checkpoints during an epoch that cost almost nothing, are never torn, and resume exactly."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On demand: importing the package must not import torch, so that `--help` answers at once.
    if name == "load_model":
        from cairn.lightning.load_model import load_model

        return load_model
    if name == "DataLoader":
        from cairn.data.loader import DataLoader

        return DataLoader
    if name == "DataModule":
        from cairn.data.datamodule import DataModule

        return DataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
