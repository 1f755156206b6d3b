"""What is wrong with a composed configuration, found without building anything: keys, targets, references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.command.suggest import nearest
from cairn.hydra.schema import known, library, references
from cairn.hydra.schema.nodes import HYDRA_KEYS

_BUILT = ("data", "model", "callbacks")
"""Groups whose nodes get all arguments from the configuration."""
_NEAR = 0.9
"""Least similarity of a key at the top to one of the library: the project may have keys of its own there."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        key: Dotted key that it is about; empty if it is about the whole.
        message: A sentence that begins with the key.
    """

    key: str
    message: str


def find(cfg: DictConfig) -> list[Problem]:
    """Return what is wrong with a configuration that Hydra has composed, with its interpolations as they are written.

    Args:
        cfg: The configuration, without the part of Hydra.
    """
    plain: Any = OmegaConf.to_container(cfg)
    found = [Problem(key, f"{key}: {why}") for key, why in references.broken(cfg)]
    found += [*_top(plain), *unread(plain)]
    for key, node in nodes(plain):
        found += _node(key, node)
    return found


def nodes(value: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each mapping with a `_target_` and its dotted key."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield key, value
        for name, item in value.items():
            yield from nodes(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from nodes(item, f"{key}[{number}]")


def _node(key: str, node: Mapping[str, Any]) -> list[Problem]:
    name = node["_target_"]
    if "${" in name:
        return []
    try:
        signature = known.signature(name)
    except ConfigError as error:
        return [Problem(f"{key}._target_", f"{key}: {error}")]
    given = [str(item) for item in node if item not in HYDRA_KEYS]
    names = [*signature.parameters, *(library.TRAINER if key == "trainer" else ())]
    short = name.rpartition(".")[2]
    found = []
    for item in given if not signature.is_open else ():
        if item not in names:
            free = [name for name in names if name not in given]
            hint = meant(key, nearest(item, free) or nearest(item, names))
            found.append(Problem(f"{key}.{item}", f"{key}.{item}: {short} has no argument {item}.{hint}"))
    lacks = [item for item in signature.required if item not in given]
    if lacks and not node.get("_partial_") and not node.get("_args_") and key.partition(".")[0] in _BUILT:
        found.append(Problem(key, f"{key}: {short} needs {' and '.join(lacks)}."))
    return found


def unread(plain: Mapping[str, Any]) -> list[Problem]:
    """Return keys of the group `checkpoint` that neither the library nor the configuration itself reads.

    Args:
        plain: The whole configuration, with its interpolations as they are written.
    """
    group = plain.get("checkpoint")
    if not isinstance(group, Mapping):
        return []
    found = _unread("checkpoint", group, [*library.CHECKPOINT, *library.OBJECTS, "artifacts"], plain)
    if isinstance(inner := group.get("artifacts"), Mapping):
        found += _unread("checkpoint.artifacts", inner, list(library.ARTIFACTS), plain)
    return found


def _unread(key: str, group: Mapping[str, Any], names: Sequence[str], plain: Mapping[str, Any]) -> list[Problem]:
    text = str(plain)
    found = []
    for name in group:
        if name not in names and f"${{{key}.{name}}}" not in text:
            hint = meant(key, nearest(str(name), names))
            found.append(Problem(f"{key}.{name}", f"{key}.{name}: nothing reads this key.{hint}"))
    return found


def _top(plain: Mapping[str, Any]) -> list[Problem]:
    """Return keys at the top that are probably misspelt: their names are almost those of the library."""
    names = [*library.TOP, *library.GROUPS]
    text = str(plain)
    found = []
    for name in map(str, plain):
        near = nearest(name, names, _NEAR) if name not in names else ""
        if near and f"${{{name}" not in text:
            found.append(Problem(name, f"{name}: the library does not read this key. Did you mean {near}?"))
    return found


def meant(key: str, near: str) -> str:
    """Return a sentence that names the key that was probably meant; empty if none is similar."""
    return f" Did you mean {f'{key}.' if key else ''}{near}?" if near else ""
