"""Which checkpoints stay: rules as tables, and properties of any rules."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.values import at, history, moment, names_of, saved

from cairn.errors import ConfigError
from cairn.policy.keep import (
    Best,
    EveryNth,
    Latest,
    WithinBytes,
    best_of,
    check_rules,
    peak_bytes,
    survivors,
    to_make_room,
)
from cairn.policy.when import BestValidation
from cairn.types import ranked

COUNTS = st.integers(min_value=-1, max_value=5)
SIZES = st.integers(min_value=0, max_value=9)
SCORES = st.one_of(st.none(), st.just(float("nan")), st.integers(min_value=-3, max_value=3).map(float))


def run_of(facts):
    """Checkpoints with these scores and sizes, numbered like those of a run."""
    items, number = [], 0
    for batch, (score, size, lasting) in enumerate(facts, start=1):
        items.append(saved(number, score, num_bytes=size, lasting=lasting, position=at(batch)))
        number += lasting
    return items


HISTORIES = st.lists(st.tuples(SCORES, SIZES, st.just(True)), max_size=14).map(run_of)
STOPPED = st.lists(st.tuples(SCORES, SIZES, st.booleans()), max_size=14).map(run_of)
COUNTING = st.one_of(
    COUNTS.map(Latest), COUNTS.map(Best), st.integers(min_value=1, max_value=5).map(EveryNth)
)  # these do not look at sizes
RULES = st.lists(st.one_of(COUNTING, st.integers(min_value=1, max_value=40).map(WithinBytes)), max_size=3)
MODES = st.sampled_from(["min", "max"])


def numbers(items):
    return [item.number for item in items]


def kept(rule, items, mode="min"):
    return sorted(numbers(rule.keep(items, mode)))


def one_by_one(rules, items, mode):
    """What stays when the rules are applied after each save, as in a run."""
    left = []
    for item in items:
        left = survivors(rules, [*left, item], mode)
    return left


@pytest.mark.parametrize(
    ("rule", "scores", "mode", "expected"),
    [
        (Latest(2), [None] * 5, "min", [3, 4]),
        (Latest(1), [None] * 5, "min", [4]),
        (Latest(0), [None] * 5, "min", []),
        (Latest(-1), [None] * 5, "min", [0, 1, 2, 3, 4]),
        (Latest(9), [None] * 5, "min", [0, 1, 2, 3, 4]),
        (Latest(2), [], "min", []),
        (Best(1), [0.5, 0.3, 0.4], "min", [1]),
        (Best(2), [0.5, 0.3, 0.4], "min", [1, 2]),
        (Best(2), [0.5, 0.3, 0.4], "max", [0, 2]),
        (Best(1), [0.3, 0.3], "min", [0]),  # of equals the earlier one
        (Best(-1), [0.5, None, 0.4], "min", [0, 2]),
        (Best(-1), [0.5, float("nan"), float("-inf")], "min", [0]),
        (Best(0), [0.5], "min", []),
        (Best(3), [None, None], "min", []),
        (EveryNth(1), [None] * 3, "min", [0, 1, 2]),
        (EveryNth(2), [None] * 5, "min", [1, 3]),
        (EveryNth(3), [None] * 7, "min", [2, 5]),
        (EveryNth(9), [None] * 3, "min", []),
    ],
)
def test_a_rule_keeps(rule, scores, mode, expected):
    assert kept(rule, history(*scores), mode) == expected


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [(1, []), (39, []), (40, [3]), (69, [3]), (70, [2, 3]), (90, [1, 2, 3]), (100, [0, 1, 2, 3]), (999, [0, 1, 2, 3])],
)
def test_within_bytes_keeps_as_many_of_the_newest_as_fit(num_bytes, expected):
    items = [saved(number, num_bytes=size) for number, size in enumerate((10, 20, 30, 40))]
    assert kept(WithinBytes(num_bytes), items) == expected


def test_within_bytes_stops_at_the_first_that_does_not_fit():
    items = [saved(number, num_bytes=size) for number, size in enumerate((1, 50, 1))]
    assert kept(WithinBytes(10), items) == [2]


def test_every_nth_counts_all_saves_of_the_run():
    left = [saved(number) for number in (0, 3, 5, 6)]
    assert kept(EveryNth(2), left) == [3, 5]


@pytest.mark.parametrize("n", [0, -1])
def test_every_nth_refuses_other_values(n):
    with pytest.raises(ValueError, match=f"n={n} must be an integer from 1"):
        EveryNth(n)


@pytest.mark.parametrize(
    ("rules", "scores", "expected"),
    [
        ([], [0.5, 0.3, 0.4], [1, 2]),  # the best and the newest stay though no rule asks
        ([], [None, None], [1]),
        ([Latest(2)], [0.1, 0.5, 0.4, 0.3], [0, 2, 3]),
        ([Latest(2), Best(2)], [0.1, 0.2, 0.5, 0.4, 0.3], [0, 1, 3, 4]),
        ([Latest(1), EveryNth(2)], [None] * 5, [1, 3, 4]),
        ([Latest(0), Best(0)], [0.5, 0.3, 0.4], [1, 2]),
        ([WithinBytes(1)], [0.5, 0.4], [1]),
    ],
)
def test_a_checkpoint_stays_if_any_rule_keeps_it(rules, scores, expected):
    items = [saved(number, score, num_bytes=1) for number, score in enumerate(scores)]
    assert numbers(survivors(rules, items, "min")) == expected


@given(RULES, STOPPED, MODES)
def test_the_newest_and_the_best_always_survive(rules, items, mode):
    left = survivors(rules, items, mode)
    pool = [item for item in items if item.lasting or item is items[-1]]
    assert left[-1:] == items[-1:]
    assert ranked(left, mode)[:1] == ranked(pool, mode)[:1]


@given(RULES, STOPPED, MODES)
def test_survivors_stay_in_their_order(rules, items, mode):
    left = names_of(survivors(rules, items, mode))
    assert left == [name for name in names_of(items) if name in left]


@given(RULES, STOPPED, MODES)
def test_retention_applied_twice_changes_nothing(rules, items, mode):
    left = survivors(rules, items, mode)
    assert survivors(rules, left, mode) == left


@given(RULES, RULES, STOPPED, MODES)
def test_another_rule_never_deletes_more(rules, more, items, mode):
    assert {*names_of(survivors(rules, items, mode))} <= {*names_of(survivors([*rules, *more], items, mode))}


@given(st.lists(COUNTING, max_size=3), HISTORIES, MODES)
def test_retention_after_each_save_equals_retention_at_the_end(rules, items, mode):
    assert one_by_one(rules, items, mode) == survivors(rules, items, mode)


@settings(max_examples=300)
@given(RULES, STOPPED, st.tuples(SCORES, SIZES, st.just(True)), MODES)
@example([], run_of([(0.3, 1, True), (0.2, 1, False)]), (0.4, 1, True), "min")  # the stop was better than the best
@example([Best(1)], run_of([(0.3, 1, True), (0.2, 1, False)]), (0.4, 1, True), "min")
@example([WithinBytes(3)], run_of([(None, 1, True), (None, 1, True), (None, 2, False)]), (None, 1, True), "min")
def test_a_stopped_and_resumed_run_keeps_what_an_undisturbed_one_keeps(rules, items, last, mode):
    facts = [(item.score, item.num_bytes, item.lasting) for item in items]
    items = run_of([*facts, last])
    undisturbed = [item for item in items if item.lasting]
    assert one_by_one(rules, items, mode) == one_by_one(rules, undisturbed, mode)


@given(RULES, STOPPED, MODES)
def test_a_checkpoint_of_a_stop_stays_while_it_is_the_newest(rules, items, mode):
    assert [item for item in survivors(rules, items, mode) if not item.lasting] == [
        item for item in items[-1:] if not item.lasting
    ]


@given(st.integers(min_value=1, max_value=40), HISTORIES)
def test_within_bytes_limits_the_bytes_on_disk(num_bytes, items):
    unscored = [replace(item, score=None) for item in items]
    left = one_by_one([WithinBytes(num_bytes)], unscored, "min")
    assert sum(item.num_bytes for item in left) <= max(num_bytes, *(item.num_bytes for item in left[-1:]), 0)


@given(HISTORIES, st.integers(min_value=1, max_value=4), MODES)
def test_saving_the_best_and_keeping_the_best_leaves_the_best_of_all_validations(items, count, mode):
    left = []
    for item in items:
        if BestValidation(count).due(moment(item.position, score=item.score, mode=mode), left):
            left = survivors([Best(count)], [*left, item], mode)
    assert numbers(left) == sorted(item.number for item in ranked(items, mode)[:count])


@given(RULES, STOPPED, MODES)
def test_what_stays_is_what_a_rule_keeps_with_the_newest_and_the_best(rules, items, mode):
    pool = [item for item in items if item.lasting or item is items[-1]]
    best = ranked([item for item in pool if item.lasting], mode) or ranked(pool, mode)
    wanted = [*pool[-1:], *best[:1], *(item for rule in rules for item in rule.keep(pool, mode))]
    assert survivors(rules, items, mode) == [item for item in pool if item in wanted]


# Room before a save


@given(RULES, STOPPED, st.tuples(SCORES, SIZES, st.booleans()), MODES)
def test_room_is_made_of_what_only_a_budget_keeps_and_would_not_keep(rules, items, last, mode):
    *items, coming = run_of([*((item.score, item.num_bytes, item.lasting) for item in items), last])
    others = survivors([rule for rule in rules if not rule.makes_room], items, mode)
    then = survivors(rules, [*items, coming], mode)
    wanted = [item for item in survivors(rules, items, mode) if item not in others and item not in then]
    assert to_make_room(rules, items, coming, mode) == wanted


@given(RULES, HISTORIES, MODES)
def test_deleting_before_the_save_keeps_the_same_in_the_end(rules, items, mode):
    """The result is that of deleting later, and the newest and the best are never deleted first."""
    left, tidied = [], []
    for item in items:
        way = to_make_room(rules, left, item, mode)
        assert not {left[-1].name, getattr(best_of(left, mode), "name", "")} & set(names_of(way)) if left else way == []
        left = survivors(rules, [*(old for old in left if old not in way), item], mode)
        tidied = survivors(rules, [*tidied, item], mode)
        assert names_of(left) == names_of(tidied)


@given(st.integers(min_value=1, max_value=40), HISTORIES)
def test_a_budget_holds_while_a_checkpoint_is_being_written(num_bytes, items):
    left = []
    for item in [replace(item, score=None, lasting=True) for item in items]:
        way = to_make_room([WithinBytes(num_bytes)], left, item, "min")
        there = [old for old in left if old not in way]
        assert sum(old.num_bytes for old in (*there, item)) <= max(
            num_bytes, sum(old.num_bytes for old in (*left[-1:], item))
        ), "no more than the budget, or than the newest and its successor"
        left = survivors([WithinBytes(num_bytes)], [*there, item], "min")


@pytest.mark.parametrize("rules", [[Latest(1)], [Latest(5), EveryNth(2)], [Best(3)], []])
def test_only_a_budget_deletes_before_the_save(rules):
    assert to_make_room(rules, history(0.5, 0.4, None, 0.6), saved(4, 0.1), "min") == []


@pytest.mark.parametrize(
    ("rules", "sizes", "expected"),
    [
        ([Latest(1)], [], [10, 20]),  # the first stays until the second is whole
        ([Latest(3)], [], [10, 20]),
        ([Latest(1)], [10], [10, 10]),
        ([Latest(2)], [10], [10, 20]),
        ([WithinBytes(30)], [10, 10, 10], [0, 0]),
        ([WithinBytes(5)], [10], [10, 10]),
    ],
)
def test_peak_bytes_of_the_next_two_saves(rules, sizes, expected):
    there = [saved(number, num_bytes=size) for number, size in enumerate(sizes)]
    assert peak_bytes(rules, there, "min", 10, 2) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", -1, 0, "0MB", "1 parsec", "1e9", True, None])
def test_an_invalid_size_is_refused(text):
    with pytest.raises(ValueError, match=r"Invalid size .*: give bytes, or '500MB'"):
        WithinBytes(text)


@pytest.mark.parametrize("rule", [Latest, Best])
@pytest.mark.parametrize("count", [-2, "two", 1.5, None])
def test_an_invalid_count_is_refused(rule, count):
    with pytest.raises(ValueError, match="must be an integer from 0, or -1 for all"):
        rule(count)


def test_rules_are_accepted():
    rules = {"last": Latest(2), "budget": WithinBytes("1GB")}
    assert check_rules(rules) == rules


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"last": 3}, "rules['last'] is 3, not a keep rule: write keep_last=3, or rules={'last': cairn.Latest(3)}."),
        ({"best": Best}, "rules['best'] is a class: write Best(...)."),
        (
            {"last": "3"},
            "rules['last'] is '3', not a keep rule: it needs a method keep(saved, mode) and the attribute makes_room.",
        ),
        ({3: Best()}, "rules has the name 3: a name must be a string that is not empty."),
        (3, "rules=3 is not a mapping: write rules={'a_name': cairn.Latest(3)}."),
    ],
)
def test_other_values_are_refused_with_what_to_write(rules, message):
    with pytest.raises(ConfigError) as error:
        check_rules(rules)
    assert str(error.value) == message


@pytest.mark.parametrize("kept", [None, ["epoch_000_batch_000001.ckpt"]])
def test_a_rule_that_returns_something_else_than_checkpoints_is_named(kept):
    class Strange:
        makes_room = False

        def keep(self, saved, mode):
            return kept

    with pytest.raises(ConfigError, match=r"^Strange.keep returned .*: it must return the given checkpoints that it"):
        survivors([Strange()], [saved(0)], "min")
