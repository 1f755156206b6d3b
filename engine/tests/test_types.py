"""The order of scores and of positions."""

import dataclasses
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.values import at, draft, history, moment, saved

from cairn.types import Position, SaveCost, Saved, beats, ranked

SCORES = st.lists(st.one_of(st.none(), st.floats(), st.integers(min_value=-2, max_value=2).map(float)), max_size=12)
MODES = st.sampled_from(["min", "max"])


@pytest.mark.parametrize(
    ("scores", "mode", "order"),
    [
        ([], "min", []),
        ([None, None], "min", []),
        ([0.5, 0.3, 0.4], "min", [1, 2, 0]),
        ([0.5, 0.3, 0.4], "max", [0, 2, 1]),
        ([0.3, None, 0.3], "min", [0, 2]),  # of equals the earlier one
        ([0.3, 0.1, 0.3], "max", [0, 2, 1]),
        ([math.nan, 0.3, math.inf, -math.inf], "min", [1]),
        ([math.nan, 0.3, math.inf, -math.inf], "max", [1]),
        ([0.0, -0.0], "min", [0, 1]),
    ],
)
def test_ranked(scores, mode, order):
    assert [item.number for item in ranked(history(*scores), mode)] == order


def test_of_equal_scores_the_earlier_position_is_better():
    earlier, later = history(0.3, 0.3)
    assert ranked([later, earlier], "min") == [earlier, later]


@given(SCORES, MODES)
def test_ranked_has_every_finite_score_in_order(scores, mode):
    best = ranked(history(*scores), mode)
    found = [item.score for item in best]
    assert found == sorted((s for s in scores if s is not None and math.isfinite(s)), reverse=mode == "max")
    assert all(a.number < b.number for a, b in pairwise(best) if a.score == b.score)


@given(SCORES, MODES, st.integers(min_value=0, max_value=6))
def test_the_first_few_of_a_ranking_are_those_of_the_whole(scores, mode, count):
    items = history(*scores)[::-1]  # the order of the checkpoints does not matter
    assert ranked(items, mode, count) == ranked(items, mode)[:count]


@given(SCORES, MODES, st.floats(), st.integers(min_value=-1, max_value=4))
def test_a_score_beats_exactly_if_it_would_be_ranked_among_the_best(scores, mode, score, count):
    rivals = history(*scores)
    newest = saved(len(rivals), score)
    best = ranked([*rivals, newest], mode)
    assert beats(score, rivals, count, mode) is (newest in (best if count < 0 else best[:count]))


def test_no_score_never_beats():
    assert not beats(None, [], -1, "min")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [(at(3), at(4)), (at(8, epoch=0), at(1, epoch=1)), (at(8, epoch=0), at(0, epoch=1)), (at(9), at(10))],
)
def test_positions_are_ordered_by_epoch_and_then_batch(earlier, later):
    assert earlier < later


def test_values_are_frozen():
    for value, name in ((at(), "batch"), (saved(), "score"), (moment(), "ends"), (SaveCost(1, 2, 3, 4), "batch_s")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)


def test_a_position_is_equal_by_value():
    assert at(3, total=11, step=5, samples=33) == Position(0, 3, 11, 5, 33)
    assert at(3, total=11) != at(3, total=12)


def test_the_cost_of_a_save_is_stall_plus_slowdown():
    assert SaveCost(batch_s=1.0, stall_s=0.25, slowdown_s=0.5, write_s=9.0).save_s == 0.75


def test_a_committed_draft_keeps_all_its_fields():
    item = draft(3, 0.5, reasons=("best",), wait_s=2.0)
    committed = Saved.of(item, digest="crc32-sha256:ab", num_bytes=7)
    assert {name: getattr(committed, name) for name in vars(item)} == vars(item) | {"num_bytes": 7}
    assert committed.digest == "crc32-sha256:ab"
