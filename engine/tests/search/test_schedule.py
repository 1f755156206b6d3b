"""How many trials begin at which rung, and which of them go on."""

import math
from itertools import pairwise

import pytest

from cairn.errors import ConfigError
from cairn.search.schedule import brackets, num_batches, num_promoted, promoted, ranking


def counts(schedule, num_trials, num_rungs, eta=3):
    return [(item.first_rung, item.num_trials) for item in brackets(schedule, num_trials, num_rungs, eta)]


def test_successive_halving_has_one_bracket():
    assert counts("halving", 27, 3) == [(0, 27)]
    assert counts("halving", 1, 1) == [(0, 1)]


@pytest.mark.parametrize(
    ("num_trials", "num_rungs", "eta"),
    [(3, 3, 3), (27, 3, 3), (81, 4, 3), (100, 5, 3), (5, 4, 3), (10, 10, 2), (9, 8, 2)],
)
def test_hyperband_begins_at_each_rung_with_fewer_trials(num_trials, num_rungs, eta):
    found = counts("hyperband", num_trials, num_rungs, eta)
    assert [first for first, _ in found] == list(range(num_rungs))
    assert sum(count for _, count in found) == num_trials
    assert all(one >= other >= 1 for (_, one), (_, other) in pairwise(found))


def test_brackets_of_hyperband_train_for_about_as_long():
    stops = [1, 3, 9, 27]
    found = []
    for bracket in brackets("hyperband", 98, 4, 3):
        own, begun = stops[bracket.first_rung :], [bracket.num_trials]
        while len(begun) < len(own):
            begun.append(num_promoted(begun[-1], 3))
        found.append(num_batches(begun, own)[1])
    assert max(found) < 1.7 * min(found)


def test_hyperband_needs_a_trial_for_each_bracket():
    with pytest.raises(ConfigError, match="num_trials=2 is too few"):
        brackets("hyperband", 2, 3, 3)


@pytest.mark.parametrize(("num_trials", "eta", "expected"), [(27, 3, 9), (10, 3, 3), (2, 3, 1), (1, 2, 1), (9, 4, 2)])
def test_one_of_eta_goes_on(num_trials, eta, expected):
    assert num_promoted(num_trials, eta) == expected


SCORES = {0: 0.5, 1: 0.2, 2: None, 3: 0.9, 4: math.nan, 5: 0.2, 6: math.inf}


def test_the_best_come_first_and_what_is_not_a_number_is_left_out():
    assert ranking(SCORES, "min") == [1, 5, 0, 3]
    assert ranking(SCORES, "max") == [3, 0, 1, 5]


def test_failed_trials_count_among_those_that_began():
    assert promoted(SCORES, 9, 3, "min") == [1, 5, 0]
    assert promoted(SCORES, 3, 3, "min") == [1]
    assert promoted({2: None}, 9, 3, "min") == []


def test_trials_that_continue_train_less_than_trials_that_start_again():
    assert num_batches([27, 9, 3], [10, 30, 90]) == (270 + 180 + 180, 270 + 270 + 270)
