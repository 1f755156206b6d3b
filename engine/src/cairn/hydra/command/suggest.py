"""Suggest the key or option that was probably meant, for an error of Hydra about one that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from omegaconf import OmegaConf

from cairn.hydra.command.overrides import key

_NO_KEY = re.compile(r"Could not (?:override|delete from config\.|delete) '?([^'\s]+)'")
_NO_OPTION = re.compile(r"Could not find '([^'\s]+)/([^'/\s]+)'\s+Available options in '[^']+':\n((?:\t.*\n?)+)")
_NO_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
_HINT = "Did you mean"
_SIMILAR = 0.6
"""Least similarity of two names, as difflib measures it."""


def add(error: Exception, overrides: Sequence[str], compose: Callable[[list[str]], Any]) -> None:
    """Add a line with the key or option that was probably meant to the message of an error, if one is similar.

    Args:
        error: An error of Hydra.
        overrides: Overrides of the command.
        compose: Composes a configuration from overrides.
    """
    text = str(error)
    hint = "" if _HINT in text else _meant(text, overrides, compose)
    if hint and error.args:
        error.args = (f"{error.args[0]}\n{hint}", *error.args[1:])


def for_argument(message: str, prefix: str, names: Collection[str]) -> str:
    """Return a sentence that names the argument that was probably meant; empty if none is similar.

    Args:
        message: The error that Python raises for an unknown argument.
        prefix: Key of the node that is built.
        names: Arguments that exist.
    """
    found = _NO_ARGUMENT.search(message)
    near = nearest(found[1], names) if found else ""
    return f"{_HINT} {prefix}.{near}?" if near else ""


def _meant(message: str, overrides: Sequence[str], compose: Callable[[list[str]], Any]) -> str:
    if found := _NO_OPTION.search(message):
        group, typed, options = found.groups()
        near = nearest(typed, options.split())
        return f"{_HINT} {group}={near}?" if near else ""
    if (found := _NO_KEY.search(message)) is None:
        return ""
    name = found[1]
    given = next((item for item in overrides if key(item) == name), "")
    try:
        cfg = compose([item for item in overrides if key(item) != name])
    except Exception:  # another override is wrong, too
        return ""
    if not (near := nearest_key(name, names_of(cfg))):
        return ""
    _, equals, value = given.partition("=")
    return f"{_HINT} {'~' if given.startswith('~') else ''}{near}{equals}{value}?"


def names_of(cfg: Any) -> list[str]:
    """Return the dotted keys of a configuration, those of its groups and mappings included."""
    found: list[str] = []

    def collect(node: Any, prefix: str) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            full = f"{prefix}{name}"
            found.append(full)
            collect(value, f"{full}.")

    collect(OmegaConf.to_container(cfg), "")
    return found


def nearest_key(name: str, names: Collection[str]) -> str:
    """Return the most similar key: one in the same group, or else any; empty if none is similar."""
    group, _, last = name.rpartition(".")
    siblings = {item.rpartition(".")[2]: item for item in names if item.rpartition(".")[0] == group}
    if near := nearest(last, siblings):
        return siblings[near]
    return nearest(name, names)


def nearest(typed: str, names: Collection[str], similarity: float = _SIMILAR) -> str:
    """Return the most similar name; empty if none is similar."""
    return next(iter(difflib.get_close_matches(typed, names, n=1, cutoff=similarity)), "")
