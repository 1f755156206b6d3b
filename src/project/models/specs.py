"""Decides which arguments of a module go into its checkpoint: plain specs do, live objects do not."""

from collections.abc import Mapping, Sequence
from typing import Any


def plain(spec: Any) -> Any:
    """Mappings and sequences of any class (OmegaConf's, too) as dicts and lists; the rest as it is."""
    if isinstance(spec, Mapping):
        return {key: plain(value) for key, value in spec.items()}
    if isinstance(spec, Sequence) and not isinstance(spec, str | bytes):
        return [plain(value) for value in spec]
    return spec


def live_names(**arguments: Any) -> list[str]:
    """Names of the arguments that are neither None nor a mapping of plain values: what a checkpoint must not
    hold."""
    return [name for name, value in arguments.items() if not _is_plain(value)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
