"""Configuration of one run, of which only the parts are parsed that are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

from cairn.errors import ResumeError
from cairn.run.directory import RunDirectory


class Absent:
    """The value of a key that a run does not have, unlike `None`, which a configuration may contain."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()
_USUAL = ("checkpoint", "paths", "trainer", "tags")
"""Keys that the table needs: they are read together."""


class RunConfig:
    """The configuration in a run directory. One that cannot be read has no keys.

    Args:
        directory: The run directory.
        more: Keys at the top that will be needed besides the usual ones: the file is then read once.
    """

    def __init__(self, directory: RunDirectory, more: Collection[str] = ()) -> None:
        self._directory, self._usual = directory, {*_USUAL, *more}
        self._parts: dict[str, Any] = {}
        self.trouble = ""
        """Why it cannot be read; empty if it can, as far as it was needed."""

    def part(self, *keys: str) -> Mapping[str, Any]:
        """Return those of the keys at the top that are there."""
        if missing := [key for key in keys if key not in self._parts]:
            try:
                missing = [*missing, *(key for key in self._usual if key not in self._parts and key not in missing)]
                found = self._directory.config(*missing)
            except ResumeError as error:
                self.trouble = str(error).replace(str(self._directory.config_file), "config.yaml")
                found = {}
            self._parts.update({key: found.get(key, ABSENT) for key in missing})
        return {key: self._parts[key] for key in keys if self._parts[key] is not ABSENT}

    def value(self, key: str) -> Any:
        """Return the value of a dotted key; `ABSENT` if there is none."""
        first, *rest = key.split(".")
        found = self.part(first).get(first, ABSENT)
        for name in rest:
            found = found.get(name, ABSENT) if isinstance(found, Mapping) else ABSENT
        return found

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """All values by their dotted keys; lists and empty mappings are values."""
        try:
            return dict(_flattened(self._directory.config()))
        except ResumeError:
            return {}


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
