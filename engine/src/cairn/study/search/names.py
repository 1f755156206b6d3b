"""How a report of a search writes parameters, values, scores and rungs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from cairn.run.terminal import printable
from cairn.study.cells import UNKNOWN
from cairn.study.search.record import Parameter, Search, Trial

_MOST_CHARACTERS = 40


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each parameter the shortest end of its name that no other has: `lr` for `model.optimizer.lr`."""
    parts = {name: name.split(".") for name in names}
    length = dict.fromkeys(parts, 1)
    while True:
        ends = {name: ".".join(parts[name][-length[name] :]) for name in parts}
        shared = {end for end, number in Counter(ends.values()).items() if number > 1}
        longer = [name for name, end in ends.items() if end in shared and length[name] < len(parts[name])]
        if not longer:
            return {name: printable(end) for name, end in ends.items()}
        for name in longer:
            length[name] += 1


def value(of: Any) -> str:
    """Format the value of a parameter."""
    if isinstance(of, float):
        return f"{of:.3g}"
    text = printable(of if isinstance(of, str) else json.dumps(of))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def score(of: float | None) -> str:
    """Format a score; a dash if there is none."""
    return UNKNOWN if of is None else f"{of:.4g}"


def values(short: Mapping[str, str], trial: Trial) -> str:
    """Format all parameters of a trial: `lr=0.01 dropout=0.2`.

    Args:
        short: Short names of the parameters.
        trial: The trial.
    """
    return " ".join(f"{short.get(name, printable(name))}={value(of)}" for name, of in trial.parameters.items())


def rung(search: Search, number: int) -> str:
    """Return the stop of a rung, such as `3ep`."""
    return value(search.rungs[number])


def point(search: Search, number: int) -> str:
    """Return the stop of a rung as a part of a sentence: `3ep`, or `the end`."""
    stop = rung(search, number)
    return "the end" if stop == "end" else stop


def space(parameter: Parameter) -> str:
    """Format what was searched: `0.0001 to 0.1, log`, `mlp, cnn`."""
    if parameter.kind == "choice":
        return ", ".join(value(choice) for choice in parameter.choices)
    low, high = (UNKNOWN if bound is None else f"{bound:.3g}" for bound in (parameter.low, parameter.high))
    return f"{low} to {high}{', log' if parameter.log else ''}"


def found(parameter: Parameter, of: Iterable[Any]) -> str:
    """Format where some trials lie: the range of their numbers, or how often each choice is among them."""
    every = list(of)
    if parameter.kind != "choice" and every and all(isinstance(item, int | float) for item in every):
        low, high = value(min(every)), value(max(every))
        return low if low == high else f"{low} to {high}"
    return ", ".join(f"{name} ({number})" for name, number in Counter(map(value, every)).most_common())
