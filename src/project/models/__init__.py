"""Networks in plain torch, the LightningModules that train them, and what builds both from plain mappings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.models.classifier import Classifier as Classifier
    from cairn.models.cnn import CNN as CNN
    from cairn.models.gpt import GPT as GPT
    from cairn.models.language_model import LanguageModel as LanguageModel
    from cairn.models.load import load_model as load_model
    from cairn.models.mlp import MLP as MLP
    from cairn.models.schedulers import WarmupCosine as WarmupCosine

# `build` stays in its module: a function of the same name in the package would hide that module.
__all__ = ["CNN", "GPT", "MLP", "Classifier", "LanguageModel", "WarmupCosine", "load_model"]

_HOMES = {
    "CNN": "cnn",
    "Classifier": "classifier",
    "GPT": "gpt",
    "LanguageModel": "language_model",
    "MLP": "mlp",
    "WarmupCosine": "schedulers",
    "load_model": "load",
}


def __getattr__(name: str) -> Any:
    # Late, because Lightning takes seconds to import, and a network in plain torch does not need it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
