"""A plain measure of importance: the share of the variance of the ranks of scores that a parameter explains by itself.

Ranks, because a single trial that diverged would else decide everything. For a choice, it is the variance between the
choices (eta squared). For a number, it is that of a line with one bend through the ranks of its values: a learning
rate is best in the middle. Both are adjusted for the number of trials (Ezekiel's adjusted R squared), so that a
parameter without any effect has about 0, whatever its number of choices.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any


def share(values: Sequence[Any], scores: Sequence[float], is_choice: bool) -> float:
    """Return the share that a parameter explains, from 0 to 1.

    Args:
        values: Its value in each trial.
        scores: Score of each trial.
        is_choice: Whether its values have no order.
    """
    heights = ranks(scores)
    if is_choice or not all(isinstance(value, int | float) for value in values):
        explained, num_terms = _between(values, heights)
    else:
        explained, num_terms = _bent(ranks([float(value) for value in values]), heights)
    num_free = len(values) - 1 - num_terms
    if num_terms == 0 or num_free < 1:
        return 0.0
    return max(0.0, 1 - (1 - explained) * (len(values) - 1) / num_free)


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal values share their mean rank."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    found = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end + 1 < len(order) and values[order[end + 1]] == values[order[begin]]:
            end += 1
        for place in order[begin : end + 1]:
            found[place] = (begin + end) / 2
        begin = end + 1
    return found


def _between(values: Sequence[Any], heights: Sequence[float]) -> tuple[float, int]:
    """Return the share of the variance between the groups of equal values, and the number of groups but one."""
    groups: dict[str, list[float]] = defaultdict(list)
    for value, height in zip(values, heights, strict=True):
        groups[json.dumps(value, sort_keys=True, default=str)].append(height)
    middle = math.fsum(heights) / len(heights)
    total = math.fsum((height - middle) ** 2 for height in heights)
    between = math.fsum(len(group) * (math.fsum(group) / len(group) - middle) ** 2 for group in groups.values())
    return (between / total if total else 0.0), len(groups) - 1


def _bent(places: Sequence[float], heights: Sequence[float]) -> tuple[float, int]:
    """Return the share that a parabola over the places explains, and its number of terms."""
    target, line = _centred(heights), _centred(places)
    bend = _centred([place * place for place in line])
    if norm := _dot(line, line):
        factor = _dot(bend, line) / norm
        bend = [value - factor * other for value, other in zip(bend, line, strict=True)]
    total, explained, num_terms = _dot(target, target), 0.0, 0
    for term in (line, bend):
        norm = _dot(term, term)
        if norm > 1e-9 * len(places):  # with two values, there is no bend
            explained += _dot(term, target) ** 2 / norm
            num_terms += 1
    return (explained / total if total else 0.0), num_terms


def _centred(values: Sequence[float]) -> list[float]:
    middle = math.fsum(values) / len(values)
    return [value - middle for value in values]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(one * other for one, other in zip(left, right, strict=True))
