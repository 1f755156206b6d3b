"""Keys that have to be set, and interpolations of keys that do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from cairn.errors import first_line
from cairn.hydra.command.suggest import names_of, nearest_key

_REFERENCE = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*\}")


def broken(cfg: DictConfig) -> list[tuple[str, str]]:
    """Return the keys whose values cannot be read, each with a sentence.

    Args:
        cfg: A configuration.
    """
    found: list[tuple[str, str]] = []
    names = names_of(cfg)
    for key, parent, name in _leaves(cfg):
        if OmegaConf.is_missing(parent, name):
            found.append((key, "it has to be set."))
            continue
        try:
            parent[name]
        except InterpolationKeyError as error:
            found.append((key, _why(str(parent._get_node(name)._value()), names, error)))
        except (OmegaConfBaseException, ValueError):
            continue  # a resolver that only a run has, such as that of the run directory
    return found


def _why(text: str, names: list[str], error: Exception) -> str:
    missing = next((item for item in _REFERENCE.findall(text) if item not in names), "")
    if not missing:
        return f"{first_line(error)}."
    near = nearest_key(missing, names)
    return f"${{{missing}}} refers to a key that does not exist.{f' Did you mean {near}?' if near else ''}"


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each value that is not a container: its dotted key, its container, and its key there."""
    for name in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
        full = f"{key}[{name!s}]" if isinstance(node, ListConfig) else f"{key}.{name!s}" if key else str(name)
        child = node._get_node(name)
        is_container = isinstance(child, DictConfig | ListConfig)
        if is_container and not (child._is_interpolation() or child._is_none() or child._is_missing()):
            yield from _leaves(child, full)
        else:
            yield full, node, name
