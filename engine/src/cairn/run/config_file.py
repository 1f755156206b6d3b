"""Reads the resolved configuration of a run as plain values; no library for configurations is needed for that."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cairn import bounded_yaml, opening

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*):(?: |$)")
"""A key of the whole document, as OmegaConf writes it: at the beginning of a line."""

_OWN = "/own-directory-of-this-run"
"""Stands for the run directory in a document whose parts are shared. Like that, it is a plain text of YAML."""
_OUTPUT_DIR = re.compile(r"^  output_dir: (/[\w/.=,+-]*\w)$", re.MULTILINE | re.ASCII)


class _Loader(bounded_yaml.Loader):
    """Reads scalars as OmegaConf, which writes the file, means them: `1e-3` is a number, a date is a text."""


_FLOAT, _TIMESTAMP = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))
for name in ("Path", "PosixPath", "WindowsPath"):
    _Loader.add_constructor(
        f"tag:yaml.org,2002:python/object/apply:pathlib.{name}",
        lambda loader, node: str(Path(*loader.construct_sequence(node))),
    )


def read(path: Path) -> dict[str, Any]:
    """Read a run's configuration.

    Args:
        path: The run's `config.yaml`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not YAML, or not the configuration of a run.
    """
    found = read_any(path)
    if not isinstance(found, dict) or not isinstance(found.get("checkpoint"), dict):
        raise ValueError("it is not the configuration of a run")
    return found


def read_parts(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read some keys of a run's configuration; those of thousands of runs are read in seconds.

    Args:
        path: The run's `config.yaml`.
        keys: Keys of the whole document, such as `trainer`.

    Returns:
        Those of the keys that are there. Parts of it are shared between runs: do not change them.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not YAML, or not the configuration of a run.
    """
    text, own = _without_own_directory(opening.read_text(path))
    parts = _split(text)
    if parts is None or "checkpoint" not in parts:
        whole = read(path)
        return {key: whole[key] for key in keys if key in whole}
    found = {key: _with(own, _parse_part(parts[key])[key]) for key in {"checkpoint", *keys} if key in parts}
    if not isinstance(found["checkpoint"], dict):
        raise ValueError("it is not the configuration of a run")
    return {key: found[key] for key in keys if key in found}


def read_any(path: Path) -> Any:
    """Read the plain values of a YAML file in a run directory. Interpolations are texts.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not YAML.
    """
    return bounded_yaml.parse(opening.read_text(path), _Loader)


def _without_own_directory(text: str) -> tuple[str, str]:
    """Return a document with `_OWN` in place of the run directory, and the directory; empty if that is not possible.

    The directory is all that differs in most parts of the runs of a sweep, and equal parts are parsed once.
    """
    found = _OUTPUT_DIR.search(text)
    return (text.replace(found[1], _OWN), found[1]) if found and _OWN not in text else (text, "")


def _with(own: str, value: Any) -> Any:
    """Return a value with the run directory in place of `_OWN`; what does not hold it is shared."""
    if isinstance(value, str):
        return value.replace(_OWN, own) if own and _OWN in value else value
    if isinstance(value, dict):
        return {_with(own, key): _with(own, item) for key, item in value.items()}
    return [_with(own, item) for item in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=256)
def _parse_part(text: str) -> Any:
    """Parse one key with its value: most parts are the same in all runs of a sweep."""
    return bounded_yaml.parse(text, _Loader)


def _split(text: str) -> dict[str, str] | None:
    """Split a document into its keys, each with the lines of its value; None if that takes a parser."""
    # An anchor is something that another key may refer to, and other line breaks than "\n" count as well.
    if any(character in text for character in "&\r\x85\u2028\u2029"):
        return None
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        if line and line[0] != " " and not (lines and line.startswith("- ")):
            match = _KEY.match(line)
            if match is None or match[1] in parts:
                return None
            lines = parts[match[1]] = []
        lines.append(line)
    joined = {key: "\n".join(lines) for key, lines in parts.items()}
    return joined if all(map(_is_closed, joined.values())) else None


def _is_closed(text: str) -> bool:
    """Return whether no text in quotes and no list in brackets can go on in the next lines."""
    count = text.count
    return not (count('"') % 2 or count("'") % 2) and count("[") == count("]") and count("{") == count("}")
