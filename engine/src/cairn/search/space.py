"""WHAT a search varies: parameters with their ranges and choices, and the values that a trial can have."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cairn.errors import ConfigError

_DIGITS = 6
"""Significant digits of a sampled value: it is a part of the name of a run directory."""


@dataclass(frozen=True)
class Float:
    """A number between two others, both included; with a step, one of a grid."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    kind: Literal["float"] = "float"

    def values(self) -> list[Any] | None:
        """Return all values; None if there are too many to count."""
        if self.step is None:
            return [self.low] if self.low == self.high else None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [self.rounded(self.low + number * self.step) for number in range(count)]

    def rounded(self, value: float) -> float:
        """Return a sampled value with fewer digits, still in the range."""
        short = float(f"{value:.{_DIGITS}g}")
        return short if self.low <= short <= self.high else value


@dataclass(frozen=True)
class Int:
    """An integer between two others, both included."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    kind: Literal["int"] = "int"

    def values(self) -> list[Any] | None:
        """Return all values."""
        return list(range(self.low, self.high + 1, self.step))

    def rounded(self, value: float) -> int:
        """Return a sampled value as an integer."""
        return int(value)


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes:
        choices: Plain values.
        texts: The same, as they are written in an override.
    """

    choices: tuple[Any, ...]
    texts: tuple[str, ...]
    kind: Literal["choice"] = "choice"

    def values(self) -> list[Any] | None:
        """Return all values."""
        return list(self.choices)

    def text_of(self, value: Any) -> str:
        """Return a value as it is written in an override."""
        # By type, too: 1 and true are equal in Python.
        return next(
            text
            for choice, text in zip(self.choices, self.texts, strict=True)
            if type(choice) is type(value) and choice == value
        )


Parameter = Float | Int | Choice


@dataclass(frozen=True)
class Space:
    """The parameters of a search, by their keys in the configuration."""

    parameters: Mapping[str, Parameter]

    @property
    def size(self) -> int | None:
        """Number of different trials; None if there are too many to count."""
        counts = [None if (found := item.values()) is None else len(found) for item in self.parameters.values()]
        return None if None in counts else math.prod(filter(None, counts))

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides that give a run these values."""
        return [f"{key}={self._text(key, values[key])}" for key in self.parameters]

    def grid(self, seed: int) -> list[dict[str, Any]]:
        """Return all trials, in an order that depends on the seed: a search that ends early has seen all regions.

        Raises:
            ConfigError: A parameter has too many values to count.
        """
        for key, item in self.parameters.items():
            if item.values() is None:
                raise ConfigError(
                    f"sampler='grid' needs a list or a range for each parameter, and {key} is an interval: write "
                    f"{key}=choice(...) or range(...), or take another sampler.",
                    parameter="sampler",
                )
        found = list(self._points())
        random.Random(seed).shuffle(found)
        return found

    def unused(self, taken: Collection[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
        """Yield the trials whose overrides are not taken, of a space that can be counted."""
        return (point for point in self._points() if tuple(self.overrides(point)) not in taken)

    def as_json(self) -> dict[str, Any]:
        """Return the parameters as in sweep.json."""
        return {key: _as_json(item) for key, item in self.parameters.items()}

    def _points(self) -> Iterator[dict[str, Any]]:
        values = [item.values() or [] for item in self.parameters.values()]
        return (dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*values))

    def _text(self, key: str, value: Any) -> str:
        item = self.parameters[key]
        return item.text_of(value) if isinstance(item, Choice) else str(value)


def _as_json(item: Parameter) -> dict[str, Any]:
    if isinstance(item, Choice):
        return {"kind": item.kind, "choices": list(item.choices)}
    found = {"kind": item.kind, "low": item.low, "high": item.high, "log": item.log}
    return found if item.step is None else {**found, "step": item.step}
