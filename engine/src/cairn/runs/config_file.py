"""Reads the resolved configuration of a run as plain values; no library for configurations is needed for that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cairn import bounded_yaml, opening


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


def read_any(path: Path) -> Any:
    """Read the plain values of a YAML file in a run directory. Interpolations are texts.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not YAML.
    """
    return bounded_yaml.parse(opening.read_text(path), _Loader)
