"""The interval from the cost of a save: two bounds, the optimum with failures, and when a change is worth it."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.policy.auto import (
    ROOM,
    TOLERATED,
    WORTHWHILE,
    Choice,
    Goal,
    choose,
    daly_s,
    optimum,
    overhead_bound,
    overlap_bound,
    tune,
    young_s,
)
from cairn.types import SaveCost

PLAIN = SaveCost(batch_s=0.18, stall_s=0.05, slowdown_s=0.36, write_s=0.9, num_saves=3)
AUTO = "Interval 'auto': every"

TIMES = st.floats(min_value=0, max_value=1e4)
COSTS = st.builds(
    SaveCost, batch_s=st.floats(1e-4, 1e3), stall_s=TIMES, slowdown_s=TIMES, write_s=TIMES, num_saves=st.integers(1, 9)
)
GOALS = st.builds(Goal, st.floats(1e-4, 0.99), st.none() | st.floats(1, 1e7))
NOISE = st.floats(0.9, 1.1)


def cost(batch_s=1.0, stall_s=0.0, slowdown_s=0.0, write_s=0.0, num_saves=3):
    return SaveCost(batch_s, stall_s, slowdown_s, write_s, num_saves)


def noisy(of, factors):
    names = ("batch_s", "stall_s", "slowdown_s", "write_s")
    return replace(of, **{name: getattr(of, name) * factor for name, factor in zip(names, factors, strict=True)})


# The choice


@pytest.mark.parametrize(
    ("of", "goal", "interval", "why"),
    [
        (cost(stall_s=1), Goal(0.01), 100, "overhead"),
        (cost(stall_s=1), Goal(0.05), 20, "overhead"),
        (cost(stall_s=0.5, slowdown_s=0.5), Goal(0.01), 100, "overhead"),
        (cost(batch_s=0.5, stall_s=1), Goal(0.01), 200, "overhead"),
        (cost(batch_s=3, stall_s=1), Goal(0.01), 34, "overhead"),
        (PLAIN, Goal(0.01), 228, "overhead"),
        (cost(stall_s=0.01, write_s=10), Goal(0.01), 20, "overlap"),  # a slow disk, and training does not wait for it
        (cost(stall_s=1, write_s=60), Goal(0.01), 120, "overlap"),
        (cost(stall_s=0.001, write_s=0.1), Goal(0.01), 1, "overlap"),  # a save after every batch
        (cost(), Goal(0.01), 1, "overhead"),
        (cost(batch_s=0.0, stall_s=1e-6), Goal(0.01), 100_000, "overhead"),  # a clock too coarse for such batches
        (cost(stall_s=2, write_s=5), Goal(0.01, 3600), 200, "overhead"),  # 119 s would be best, and cost too much
        (cost(stall_s=2, write_s=5), Goal(0.1, 3600), 119, "failures"),
        (cost(stall_s=2, write_s=100), Goal(0.1, 3600), 200, "overlap"),
        (cost(stall_s=2, write_s=5), Goal(0.01, 1e6), 1999, "failures"),
    ],
)
def test_the_shortest_interval_within_the_bounds(of, goal, interval, why):
    choice = choose(of, goal)
    assert (choice.interval_batches, choice.why) == (interval, why)
    assert (choice.cost, choice.goal) == (of, goal)


@given(COSTS, GOALS)
def test_the_choice_respects_both_bounds(of, goal):
    took = choose(of, goal).interval_batches * of.batch_s * (1 + 1e-9)
    assert of.stall_s + of.slowdown_s <= goal.max_overhead * took
    assert ROOM * of.write_s <= took


@given(COSTS, GOALS)
def test_the_choice_is_not_longer_than_necessary(of, goal):
    choice = choose(of, goal)
    shorter = choice.interval_batches - 1
    bounds = (overhead_bound(of, goal.max_overhead), overlap_bound(of), optimum(of, goal.mtbf_s))
    assert shorter == 0 or shorter < max(bounds)


@given(COSTS, GOALS, st.sampled_from(["stall_s", "slowdown_s", "write_s"]), st.floats(0, 1e4))
def test_a_more_expensive_save_is_not_more_frequent(of, goal, field, more):
    dearer = replace(of, **{field: getattr(of, field) + more})
    assert choose(dearer, goal).interval_batches >= choose(of, goal).interval_batches


@given(COSTS, GOALS, st.floats(1, 100))
def test_longer_batches_do_not_lengthen_the_interval(of, goal, factor):
    slower = replace(of, batch_s=of.batch_s * factor)
    assert choose(slower, goal).interval_batches <= choose(of, goal).interval_batches


@given(COSTS, GOALS)
def test_failures_never_shorten_the_interval_below_the_bounds(of, goal):
    assert choose(of, goal).interval_batches >= choose(of, Goal(goal.max_overhead)).interval_batches


# Failures


def run_time(work_s, save_s, mtbf_s):
    """Expected time per second of work, up to a constant factor: the complete equation of Daly's model."""
    return math.expm1((work_s + save_s) / mtbf_s) / work_s


def best_s(save_s, mtbf_s):
    """The minimum of `run_time`, found by trisection of the logarithm."""
    low, high = math.log(1e-6 * mtbf_s), math.log(10 * mtbf_s)
    while high - low > 1e-9:
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if run_time(math.exp(a), save_s, mtbf_s) < run_time(math.exp(b), save_s, mtbf_s):
            high = b
        else:
            low = a
    return math.exp(low)


@pytest.mark.parametrize(
    ("mtbf_h", "minutes"),
    [(24, 117), (6, 57), (0.25, 9.1)],  # the paper's figures 3 to 5, for saves of five minutes
)
def test_daly_matches_the_paper(mtbf_h, minutes):
    assert daly_s(300, 3600 * mtbf_h) / 60 == pytest.approx(minutes, rel=0.01)


@pytest.mark.parametrize("share", [1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0, 1.5])
def test_daly_minimizes_the_expected_duration(share):
    mtbf_s = 8 * 3600.0
    save_s = share * mtbf_s
    found, best = daly_s(save_s, mtbf_s), best_s(save_s, mtbf_s)
    assert found == pytest.approx(best, rel=0.05)
    assert run_time(found, save_s, mtbf_s) <= 1.002 * run_time(best, save_s, mtbf_s)


@given(st.floats(1, 1e7), st.floats(1e-9, 1e-4))
def test_for_cheap_saves_daly_equals_young(mtbf_s, share):
    assert daly_s(share * mtbf_s, mtbf_s) == pytest.approx(young_s(share * mtbf_s, mtbf_s), rel=0.01)


@given(st.floats(1, 1e7), st.floats(0, 10), st.floats(0, 10))
def test_daly_grows_with_the_cost_up_to_the_time_between_failures(mtbf_s, a, b):
    cheap, dear = (daly_s(share * mtbf_s, mtbf_s) for share in sorted((a, b)))
    assert 0 <= cheap <= dear * (1 + 1e-9)
    assert dear <= mtbf_s


def test_without_failures_there_is_no_optimum():
    assert optimum(PLAIN, None) == 0


# Changes


@pytest.mark.parametrize(
    ("old", "now", "interval"),
    [
        (100, cost(stall_s=1.05), 100),  # 5 % over the bound
        (100, cost(stall_s=1.2), 120),  # clearly broken
        (100, cost(stall_s=0.7), 100),
        (100, cost(stall_s=0.5), 50),
        (100, cost(stall_s=1, write_s=54), 100),
        (100, cost(stall_s=1, write_s=60), 120),
        (2, cost(stall_s=0.009), 2),  # 0.9 batches: a little more, and it were two again
        (1, cost(stall_s=0.0105), 1),
        (3, cost(stall_s=0.009), 1),
    ],
)
def test_a_small_change_of_the_cost_keeps_the_interval(old, now, interval):
    before = Choice(old, "overhead", Goal(), cost(stall_s=old / 100))
    assert tune(before, now, Goal()).interval_batches == interval


@pytest.mark.parametrize(("mtbf_s", "interval"), [(1e6, 1999), (1.5e6, 1999), (4e6, 3999), (2e5, 894)])
def test_a_small_change_of_the_optimum_keeps_the_interval(mtbf_s, interval):
    before = choose(cost(stall_s=2), Goal(0.01, 1e6))
    assert tune(before, cost(stall_s=2), Goal(0.01, mtbf_s)).interval_batches == interval


def test_a_kept_choice_keeps_its_figures():
    before = choose(PLAIN, Goal())
    assert tune(before, replace(PLAIN, stall_s=0.06), Goal()) is before


def test_the_first_measurement_replaces_the_estimate():
    before = choose(cost(stall_s=1, num_saves=0), Goal())
    assert tune(before, cost(stall_s=1.01, num_saves=0), Goal()) is before
    assert tune(before, cost(stall_s=0.9, num_saves=1), Goal()).interval_batches == 90


def test_without_a_choice_the_first_one_is_taken():
    assert tune(None, PLAIN, Goal()) == choose(PLAIN, Goal())


@given(COSTS, GOALS, st.lists(st.tuples(NOISE, NOISE, NOISE, NOISE), min_size=2, max_size=30))
def test_ten_percent_of_noise_never_moves_the_interval_back_and_forth(of, goal, noise):
    choice, intervals = None, []
    for factors in noise:
        choice = tune(choice, noisy(of, factors), goal)
        intervals.append(choice.interval_batches)
    assert all(earlier <= later for earlier, later in pairwise(intervals))
    assert len(set(intervals)) <= 1 + math.log((1.1 / 0.9) ** 2) / math.log(TOLERATED)


@given(COSTS, GOALS, st.lists(COSTS, max_size=8))
def test_the_interval_in_use_never_exceeds_the_tolerance_of_a_bound(of, goal, later):
    choice = choose(of, goal)
    for now in later:
        choice = tune(choice, now, goal)
        bound = max(overhead_bound(now, goal.max_overhead), overlap_bound(now))
        assert bound <= TOLERATED * choice.interval_batches * (1 + 1e-9)
        assert choice.interval_batches <= math.ceil(WORTHWHILE * choose(now, goal).interval_batches)


# The log


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            choose(PLAIN, Goal()),
            f"{AUTO} 228 batches (about 41 s), so that saving costs at most 1 %: a save costs 410 ms (50 ms pause "
            "and 360 ms by slower batches), takes 900 ms to write, a batch 180 ms; measured over 3 saves.",
        ),
        (
            choose(cost(stall_s=2, num_saves=0), Goal(0.025, 28800)),
            f"{AUTO} 339 batches (about 5.7 min), the best for a failure every 8 h (Young, Daly): a save costs 2 s "
            "(2 s pause and 0 s by slower batches), takes 0 s to write, a batch 1 s; estimated before the "
            "first save.",
        ),
        (
            choose(cost(batch_s=60, stall_s=0.0015, write_s=20, num_saves=1), Goal(0.005)),
            f"{AUTO} batch (about 60 s), the shortest in which a save is written before the next one starts: a save "
            "costs 1.5 ms (1.5 ms pause and 0 s by slower batches), takes 20 s to write, a batch 60 s; "
            "measured over 1 save.",
        ),
        (Choice(230, "resume", Goal()), f"{AUTO} 230 batches, as before the resume."),
    ],
)
def test_the_message_has_the_choice_and_its_figures(choice, message):
    assert str(choice) == message
