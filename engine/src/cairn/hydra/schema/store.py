"""Writes the schemas of a project, and the line in each YAML file by which an editor finds its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cairn import opening
from cairn.errors import ConfigError
from cairn.hydra.schema import files, groups
from cairn.hydra.schema.files import ConfigFile
from cairn.store import disk

FOLDER = ".schema"
"""Folder of the schemas, in the root of the project: in `configs/`, Hydra would take it for a group."""
_LINE = re.compile(r"^# yaml-language-server: .*\n", re.MULTILINE)


def texts(configs: Path) -> dict[str, str]:
    """Return the schemas of a project, as they are written, by their file names.

    Args:
        configs: Directory of its YAML files.
    """
    found = groups.of(files.below(configs))
    return {name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n" for name, schema in sorted(found.items())}


def stale(configs: Path, folder: Path) -> list[str]:
    """Return the names of schemas that are missing, outdated or left over.

    Args:
        configs: Directory of the YAML files.
        folder: Directory of the schemas.
    """
    wanted, there = texts(configs), _there(folder)
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def write(configs: Path, folder: Path) -> tuple[list[str], list[Path]]:
    """Write the schemas, and add the line to YAML files that have none.

    Args:
        configs: Directory of the YAML files.
        folder: Directory of the schemas; it is created.

    Returns:
        Names of the schemas that were written or removed, and the YAML files that were changed.

    Raises:
        ConfigError: Something could not be written.
    """
    wanted = texts(configs)
    changed = stale(configs, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in changed:
            if name in wanted:
                disk.put(folder / name, wanted[name].encode())
            else:
                disk.remove(folder / name)
        return changed, _add_lines(configs, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _there(folder: Path) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for path in folder.glob("*.json"):
        try:
            found[path.name] = opening.read_text(path)
        except (OSError, ValueError):
            found[path.name] = ""
    return found


def _add_lines(configs: Path, folder: Path) -> list[Path]:
    changed = []
    for file in files.below(configs):
        if (text := with_line(file, folder)) != file.text:
            disk.put(file.path, text.encode())
            changed.append(file.path)
    return changed


def with_line(file: ConfigFile, folder: Path) -> str:
    """Return the text of a YAML file with the line; one that has any such line already stays as it is.

    Args:
        file: The file.
        folder: Directory of the schemas.
    """
    name = groups.schema_name(file)
    if name is None or _LINE.search(file.text):
        return file.text
    line = f"# yaml-language-server: $schema={os.path.relpath(folder / name, file.path.parent)}\n"
    # Hydra reads `# @package` only in the first lines.
    first, newline, rest = file.text.partition("\n")
    return f"{first}{newline}{line}{rest}" if first.startswith("# @") else line + file.text
