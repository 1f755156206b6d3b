"""Data whose order and position are numbers: loaders that go on exactly where a checkpoint left them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.data.datamodule import DataModule as DataModule
    from cairn.data.digits import Digits as Digits
    from cairn.data.sampler import EpochSampler as EpochSampler
    from cairn.data.seeding import SeededItems as SeededItems
    from cairn.data.text import Text as Text

_HOMES = {
    "DataModule": "datamodule",
    "Digits": "digits",
    "EpochSampler": "sampler",
    "SeededItems": "seeding",
    "Text": "text",
}

__all__ = ["DataModule", "Digits", "EpochSampler", "SeededItems", "Text"]


def __getattr__(name: str) -> Any:
    # Late, because Lightning takes seconds to import, and a sampler does not need it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
