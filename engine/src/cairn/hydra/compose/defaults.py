"""Keys of the library with their defaults: a run of an earlier version has stored no value for the newer ones."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

_CONFIGS = Path(__file__).parents[1] / "configs"
_TOP: Mapping[str, Any] = {"init_weights_strict": True, "init_weights_prefix": None, "prove": False, "pause_at": None}
"""Keys of the library that are written in a project's primary file."""


@functools.cache
def values() -> Mapping[str, Any]:
    """Return the defaults by their dotted keys, without those that are interpolations."""
    found = dict(_TOP)
    for group in ("checkpoint", "trainer"):
        _flatten(group, yaml.safe_load((_CONFIGS / group / "base.yaml").read_text()), found)
    return {name: value for name, value in found.items() if "${" not in str(value)}


def completed(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a stored configuration with defaults for keys that it lacks, in groups that it has.

    Args:
        config: Plain values.
        keys: Dotted keys that a command overrides.
    """
    found: dict[str, Any] = copy.deepcopy(dict(config))
    for key in keys:
        *parents, last = key.split(".")
        if key not in values() or (parents and not isinstance(found.get(parents[0]), dict)):
            continue
        node = found
        for name in parents:
            node = node.setdefault(name, {})
        if isinstance(node, dict):
            node.setdefault(last, values()[key])
    return found


def _flatten(prefix: str, node: Mapping[str, Any], found: dict[str, Any]) -> None:
    for name, value in node.items():
        if isinstance(value, Mapping):
            _flatten(f"{prefix}.{name}", value, found)
        else:
            found[f"{prefix}.{name}"] = value
