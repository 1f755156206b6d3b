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
        count = self.count
        return None if count is None else [self._stepped(number) for number in range(count)]

    @property
    def count(self) -> int | None:
        """Number of values; None if there are too many to count."""
        if self.step is None:
            return 1 if self.low == self.high else None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def rounded(self, value: float) -> float:
        """Return a sampled value with fewer digits, still in the range; with a step, on the grid."""
        if self.step is not None:
            return self._stepped(round((value - self.low) / self.step))
        if self.low == self.high:
            return self.low
        # In a narrow range far from 0, such as 0.9999 to 0.99999, all values have the same first digits.
        same = math.floor(math.log10(max(abs(self.low), abs(self.high)) / (self.high - self.low)))
        short = float(f"{value:.{_DIGITS + max(0, same)}g}")
        return short if self.low <= short <= self.high else value

    def _stepped(self, number: int) -> float:
        # 0.3, and not 0.30000000000000004
        return self.low if self.step is None else float(f"{self.low + number * self.step:.15g}")


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

    @property
    def count(self) -> int:
        """Number of values."""
        return len(range(self.low, self.high + 1, self.step))

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

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.choices)

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
        counts = [item.count for item in self.parameters.values()]
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
            if item.count is None:
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
