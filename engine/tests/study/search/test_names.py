"""Parameters, values and spaces in a report are short, and still tell them apart."""

import pytest

from cairn.study.search import names
from cairn.study.search.record import Parameter


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["model.optimizer.lr", "model"], ["lr", "model"]),
        (["a.lr", "b.lr", "c.x"], ["a.lr", "b.lr", "x"]),
        (["lr", "a.lr"], ["lr", "a.lr"]),
        (["a.b.lr", "c.b.lr"], ["a.b.lr", "c.b.lr"]),
        ([], []),
        (["a\x1b.x"], ["x"]),
    ],
)
def test_a_name_is_as_short_as_it_can_be(given, expected):
    assert names.short_names(given) == dict(zip(given, expected, strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00123456, "0.00123"),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        ("mlp", "mlp"),
        ([1, 2], "[1, 2]"),
        ("\x1b[0m", "\\x1b[0m"),
        ("x" * 50, "x" * 39 + "…"),
    ],
)
def test_a_value_is_short_and_printable(value, text):
    assert names.value(value) == text


def test_a_space_and_where_some_trials_lie():
    rate, net = Parameter("float", low=1e-4, high=0.1, log=True), Parameter("choice", choices=("mlp", "cnn"))
    assert names.space(rate) == "0.0001 to 0.1, log"
    assert names.space(net) == "mlp, cnn"
    assert names.found(rate, [0.03, 0.01, 0.02]) == "0.01 to 0.03"
    assert names.found(rate, [0.01]) == "0.01"
    assert names.found(net, ["cnn", "mlp", "cnn"]) == "cnn (2), mlp (1)"
    assert names.found(rate, []) == ""
