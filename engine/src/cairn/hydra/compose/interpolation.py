"""Link the values of a resolved configuration again, by the interpolations that they came from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cairn.hydra.command import resolvers

_CURRENT_PATHS = {"output_dir": "${hydra:runtime.output_dir}", "root_dir": "${oc.env:PROJECT_ROOT,.}"}
"""Paths that are those of this start, wherever the run and the project were before."""


def restore(own: DictConfig, composed: Any) -> DictConfig:
    """Return a resolved configuration with the interpolations of another one, where they give the resolved value.

    Args:
        own: The resolved configuration.
        composed: Plain values that may be interpolations.
    """
    linked = copy.deepcopy(own)
    _link(linked, composed)
    if isinstance(paths := linked.get("paths"), DictConfig):
        for name in _CURRENT_PATHS.keys() & paths.keys():
            paths[name] = _CURRENT_PATHS[name]
    return linked


def without_calls(node: Any) -> Any:
    """Return plain values without the interpolations that are not harmless; they become null."""
    return _without(node, lambda text: not resolvers.is_harmless(text))


def without_environment(node: Any) -> Any:
    """Return plain values without environment variables, which may be secrets; they become null.

    (`restore` may read a variable: it keeps an interpolation only where it gives the value that is stored anyway.)
    """
    return _without(node, resolvers.reads_environment)


def _without(node: Any, is_refused: Callable[[str], bool]) -> Any:
    if isinstance(node, dict):
        return {name: _without(item, is_refused) for name, item in node.items()}
    if isinstance(node, list):
        return [_without(item, is_refused) for item in node]
    return None if isinstance(node, str) and is_refused(node) else node


def _link(node: Any, composed: Any) -> None:
    for name, source in composed.items() if isinstance(composed, dict) else enumerate(composed):
        if isinstance(node, DictConfig) and name not in node:
            continue
        value = node[name]
        if isinstance(source, str) and "${" in source and resolvers.is_harmless(source):
            node[name] = source
            if not _gives(node, name, value):
                node[name] = value
        elif (isinstance(source, dict) and isinstance(value, DictConfig)) or (
            isinstance(source, list) and OmegaConf.is_list(value) and len(source) == len(value)
        ):
            _link(value, source)


def _gives(node: Any, name: Any, value: Any) -> bool:
    try:
        return bool(_resolved(node[name]) == _resolved(value))
    except Exception:  # custom resolvers raise what they like
        return False


def _resolved(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
