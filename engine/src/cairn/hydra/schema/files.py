"""The YAML files of a project and of the library: which group each belongs to, its values, comments and lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cairn import bounded_yaml, opening
from cairn.hydra.command import help_screen
from cairn.run import config_file

LIBRARY = Path(__file__).parents[1] / "configs"
_GLOBAL = "# @package _global_"


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file.

    Attributes:
        path: The file.
        group: Its group, such as `hydra/launcher`; empty at the top.
        text: Its content.
    """

    path: Path
    group: str
    text: str

    @property
    def is_global(self) -> bool:
        """Whether its keys are those of the whole configuration."""
        return not self.group or self.text.startswith(_GLOBAL)

    @property
    def prefix(self) -> str:
        """What stands before its keys in the whole configuration."""
        return "" if self.is_global else f"{self.group.replace('/', '.')}."

    def values(self) -> dict[str, Any]:
        """Return its values; empty if it is not a mapping, or not YAML, which Hydra reports."""
        try:
            found = config_file.read_any(self.path)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def comments(self) -> Mapping[str, str]:
        """Return the comments of its keys by their dotted names inside the file."""
        return help_screen.comments(self.text, "")

    def lines(self) -> dict[str, int]:
        """Return the line of each key by its dotted name in the whole configuration."""
        try:
            node = yaml.compose(self.text, Loader=bounded_yaml.Loader)
            return dict(_lines(node, self.prefix))
        except (yaml.YAMLError, RecursionError):
            return {}


def below(configs: Path) -> list[ConfigFile]:
    """Return the YAML files below a directory in the order of their paths."""
    found = []
    for path in sorted(configs.rglob("*.yaml")):
        group = path.parent.relative_to(configs).as_posix()
        try:
            found.append(ConfigFile(path, "" if group == "." else group, opening.read_text(path)))
        except (OSError, ValueError):  # Hydra reports it
            continue
    return found


def chosen(project: Sequence[ConfigFile], choices: Mapping[str, str | None]) -> list[ConfigFile]:
    """Return the files that a configuration is composed from: those that have the last word first.

    Args:
        project: Files of the project.
        choices: Chosen option of each group.
    """
    by_name = {(file.group, file.path.stem): file for file in project}
    found: list[ConfigFile] = []

    def add(group: str, option: str) -> None:
        file = by_name.get((group, option))
        if file is not None and file not in found:
            found.append(file)
            entries = file.values().get("defaults")
            for base in reversed(entries if isinstance(entries, list) else []):
                if isinstance(base, str):  # an option of the same group
                    add(group, base)

    for group, option in choices.items():
        add(group, str(option))
    return sorted([*found, *(file for file in project if not file.group)], key=lambda file: not file.is_global)


def targets(value: Any) -> Iterator[str]:
    """Yield the `_target_`s in plain values, in their order."""
    if isinstance(value, Mapping):
        if isinstance(name := value.get("_target_"), str):
            yield name
        for item in value.values():
            yield from targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from targets(item)


def _lines(node: Any, prefix: str) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        yield from _lines(value, f"{name}.")
