"""Cairn: checkpoints that are written during an epoch, are never torn, and resume exactly."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.data.datamodule import DataModule
    from cairn.data.loader import DataLoader
    from cairn.errors import CairnError, CheckpointError, ConfigError, ResumeError, SaveError
    from cairn.lightning.checkpointer import Checkpointer
    from cairn.lightning.fsdp.strategy import FSDP2Strategy
    from cairn.lightning.load_model import load_model
    from cairn.lightning.logs.csv_logger import CSVLogger
    from cairn.lightning.loops.calls import Stopped
    from cairn.lightning.predict import write_predictions
    from cairn.overview.table import runs
    from cairn.policy.keep import Best, EveryNth, Latest, WithinBytes
    from cairn.policy.when import AtEnd, BestValidation, Every, OnStop
    from cairn.predictions.reading import load_predictions
    from cairn.writing.options import Writing

__version__ = "0.2.0"

__all__ = [
    "AtEnd",
    "Best",
    "BestValidation",
    "CSVLogger",
    "CairnError",
    "CheckpointError",
    "Checkpointer",
    "ConfigError",
    "DataLoader",
    "DataModule",
    "Every",
    "EveryNth",
    "FSDP2Strategy",
    "Latest",
    "OnStop",
    "ResumeError",
    "SaveError",
    "Stopped",
    "WithinBytes",
    "Writing",
    "__version__",
    "load_model",
    "load_predictions",
    "runs",
    "write_predictions",
]

_MODULES = {
    "AtEnd": "policy.when",
    "Best": "policy.keep",
    "BestValidation": "policy.when",
    "CSVLogger": "lightning.logs.csv_logger",
    "CairnError": "errors",
    "CheckpointError": "errors",
    "Checkpointer": "lightning.checkpointer",
    "ConfigError": "errors",
    "DataLoader": "data.loader",
    "DataModule": "data.datamodule",
    "Every": "policy.when",
    "EveryNth": "policy.keep",
    "FSDP2Strategy": "lightning.fsdp.strategy",
    "Latest": "policy.keep",
    "OnStop": "policy.when",
    "ResumeError": "errors",
    "SaveError": "errors",
    "Stopped": "lightning.loops.calls",
    "WithinBytes": "policy.keep",
    "Writing": "writing.options",
    "load_model": "lightning.load_model",
    "load_predictions": "predictions.reading",
    "runs": "overview.table",
    "write_predictions": "lightning.predict",
}
"""The module of each public name, imported at the first use: `import cairn` does not import torch."""

# Type checkers must not see this function: with it, they would accept every misspelled name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "remote":  # `cairn.remote.Mirror(...)` after `import cairn`
            return import_module("cairn.remote")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value  # the next access does not come through here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
