"""Filters of the table: `model.optimizer.lr<1e-3`, `status!=finished`, `tags=dev`, `run=*2026-11*`, `duration_s>2h`."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cairn.errors import ConfigError
from cairn.overview.columns import COLUMNS, value_of
from cairn.overview.facts import RunFacts
from cairn.overview.run_config import ABSENT
from cairn.units import parse_duration_s

_FORM = re.compile(r"\s*([^=<>!\s]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS: Mapping[Any, str] = {None: "null", True: "true", False: "false"}


@dataclass(frozen=True)
class Filter:
    """One condition on a run.

    Attributes:
        name: A column, a key of the configuration, or a metric.
        sign: `=`, `!=`, `<`, `<=`, `>` or `>=`.
        wanted: What the value is compared with, as it was typed.
    """

    name: str
    sign: str
    wanted: str

    def __call__(self, run: RunFacts) -> bool:
        """Return whether a run fulfils the condition. Without a value it fulfils only `!=`."""
        value = value_of(run, self.name)
        if self.sign in ("=", "!="):
            return self._equals(value) == (self.sign == "=")
        return value is not ABSENT and self._is_in_order(value)

    def _equals(self, value: Any) -> bool:
        if isinstance(value, list):
            # One of several, such as tags, or the whole list as it is typed on the command line.
            return any(map(self._equals, value)) or _text(value) == self.wanted.replace(" ", "")
        if value is ABSENT:
            return False
        number = self._number()
        if number is not None and _is_number(value):
            return number == value or (math.isnan(number) and math.isnan(value))
        return fnmatch.fnmatchcase(_text(value), self.wanted)

    def _is_in_order(self, value: Any) -> bool:
        number = self._number()
        if number is not None:
            return _is_number(value) and _ORDERS[self.sign](value, number)
        # Times (ISO 8601) and other texts.
        return isinstance(value, str) and _ORDERS[self.sign](value, self.wanted)

    def _number(self) -> float | None:
        """Return the wanted value as a number, in the unit of the column; None if it is a text."""
        kind = COLUMNS[self.name].kind if self.name in COLUMNS else "text"
        try:
            if kind == "share" and self.wanted.endswith("%"):
                return float(self.wanted[:-1]) / 100
            return parse_duration_s(self.wanted) if kind == "seconds" else float(self.wanted)
        except ValueError:
            return None


def parse(text: str) -> Filter:
    """Read a filter.

    Args:
        text: NAME, a sign and a value.

    Raises:
        ConfigError: It is not in this form, or asks for the order of something that has none.
    """
    if (match := _FORM.fullmatch(text)) is None:
        raise ConfigError(f"{text!r} is not a filter: give KEY=VALUE, or !=, <, <=, >, >= in place of =.")
    found = Filter(*match.groups())
    kind = COLUMNS[found.name].kind if found.name in COLUMNS else "text"
    if kind != "text" and found.sign in _ORDERS and found._number() is None:
        raise ConfigError(f"{text!r} is not a filter: {found.name} is a number, and {found.wanted!r} is not.")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else str(value)
