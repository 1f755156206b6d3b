"""The plain measure of importance: what it finds, and that chance gives about nothing."""

import random
import statistics

import pytest

from cairn.study.search import explained

EVEN = [number / 20 for number in range(21)]


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0, 1.0, 2.0], [2, 0, 1]), ([1, 1, 0], [1.5, 1.5, 0]), ([5, 5, 5], [1, 1, 1]), ([], [])]
)
def test_equal_values_share_their_rank(values, expected):
    assert explained.ranks(values) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (EVEN, 1.0),
        ([-(2.0**value) for value in EVEN], 1.0),
        ([1e30 if value == 1 else value for value in EVEN], 1.0),  # one that diverged
        ([(value - 0.5) ** 2 for value in EVEN], 0.9),  # a bend
        ([1.0] * 21, 0.0),
    ],
)
def test_a_number_explains_a_line_or_a_bend(scores, expected):
    assert explained.share(EVEN, scores, is_choice=False) == pytest.approx(expected, abs=0.1)


def test_a_choice_explains_the_difference_between_its_groups():
    values = ["a", "b", ["c"]] * 7
    exact = [{"a": 1, "b": 5}.get(str(value), 3) for value in values]
    assert explained.share(values, exact, is_choice=True) == pytest.approx(1.0)
    # The order of the choices means nothing.
    assert explained.share([{"a": 1, "b": 0}.get(str(value), 2) for value in values], exact, is_choice=True) == 1.0


def test_without_an_effect_the_mean_share_is_small():
    source = random.Random(0)
    found = []
    for _ in range(200):
        scores = [source.random() for _ in EVEN]
        found += [explained.share(EVEN, scores, False), explained.share(list("abcdefg") * 3, scores, True)]
    assert statistics.mean(found) < 0.1


@pytest.mark.parametrize("is_choice", [True, False])
@pytest.mark.parametrize("values", [[1, 2], [1, 1, 1], [1, 2, 3], [1]])
def test_too_few_values_explain_nothing(values, is_choice):
    assert explained.share(values, [0.1, 0.2, 0.3][: len(values)], is_choice) == 0.0
