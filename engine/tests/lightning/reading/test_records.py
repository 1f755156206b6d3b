"""A global list that code only adds to is a record; one that it reads may be state."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from cairn.lightning.reading.records import only_adds

ROWS: Any = defaultdict(list)


def fill(key: Any, value: Any) -> None:
    ROWS.append(value)
    ROWS[key.step] = value
    ROWS[key, "loss"] = [value]
    ROWS["loss"].append(value)


def on_train_end() -> None:
    print(sum(ROWS))


@pytest.mark.parametrize("function", [fill, on_train_end, lambda key: [ROWS.add(key) for _ in range(3)]])
def test_what_is_only_added_to_is_a_record(function: Callable[..., Any]) -> None:
    assert only_adds(function.__code__, "ROWS")


@pytest.mark.parametrize(
    "function",
    [
        lambda key: ROWS[key] + 1,
        lambda: len(ROWS),
        lambda key: ROWS[-1].update(a=ROWS[-2]),
        lambda: [row + 1 for row in ROWS],
        lambda: json.dumps(ROWS),
        lambda key: ROWS.get(key),
        lambda: (lambda: max(ROWS))(),
    ],
)
def test_what_is_read_is_not_a_record(function: Callable[..., Any]) -> None:
    assert not only_adds(function.__code__, "ROWS")
