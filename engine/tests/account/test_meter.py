"""The cost of saves from given durations: exact sums, and estimates that single delays do not move."""

import json
from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.values import saved

from cairn.account.meter import Meter
from cairn.types import SaveCost


def run(meter, *seconds, busy=False, validated=False):
    for one in seconds:
        meter.record_batch(one, busy=busy, validated=validated)


def warm(*seconds):
    """A meter that knows the duration of a batch; the first batch of a process does not count."""
    meter = Meter()
    run(meter, 60.0, *(seconds or [1.0] * 30))
    return meter


def save(meter, stall_s=0.5, write_s=2.0, busy=()):
    """Record a save during which batches took `busy`, and one more batch after it."""
    meter.record_stall(stall_s)
    run(meter, *busy, busy=True)
    meter.record_commit(write_s, at_s=0.0, position_s=0.0)
    run(meter, 1.0)


# Batches


def test_a_new_meter_knows_nothing():
    meter = Meter()
    assert meter.cost() is None
    run(meter, 60.0, 1.0, 1.0)
    assert meter.cost() is None
    run(meter, 1.0)
    assert meter.cost().batch_s == 1.0


@pytest.mark.parametrize(
    ("seconds", "typical"),
    [
        ([1.0, 9.0, 1.1], 1.1),  # few: their median
        ([1.0] * 30 + [500.0], 1.0),  # the machine paused once
        ([0.5, *[1.0] * 30], 1.0),
        ([8.0] * 20 + [1.0] * 128, 1.0),
        ([3.0] * 128 + [1.0] * 80, 1.0),  # three times faster for 80 batches
        ([1.0] * 128 + [3.0] * 80, 3.0),
        ([1.0] * 128 + [3.0] * 40, 1.0),  # not for long enough
        (list(islice(cycle([1.0] * 7 + [9.0]), 200)), 2.0),  # each eighth waits for its data: a part of what they take
        (list(islice(cycle([1.0] * 15 + [17.0]), 200)), 2.0),
    ],
)
def test_the_duration_of_a_batch(seconds, typical):
    assert warm(*seconds).cost().batch_s == pytest.approx(typical)


def test_batches_with_a_validation_or_during_a_write_do_not_count():
    meter = warm()
    run(meter, *[50.0] * 100, validated=True)
    run(meter, *[50.0] * 100, busy=True)
    run(meter, *[50.0] * 100, busy=True, validated=True)
    assert meter.cost().batch_s == 1.0


@given(st.lists(st.floats(0.9, 1.1), min_size=3, max_size=200))
def test_noise_does_not_move_the_duration_of_a_batch(seconds):
    assert 0.9 <= warm(*seconds).cost().batch_s <= 1.1


# Saves


def test_before_the_first_save_the_cost_is_estimated_from_the_size():
    meter = warm()
    small = meter.cost()
    meter.expect_bytes(10**9)
    large = meter.cost()
    assert small.num_saves == large.num_saves == 0
    assert 0 < small.save_s < 0.05 < 1 < large.save_s < 5
    assert small.write_s < 1 < large.write_s < 10


def test_the_first_save_replaces_the_estimate():
    meter = warm()
    meter.expect_bytes(10**12)
    save(meter, stall_s=0.5, write_s=2.0, busy=[1.25, 1.25])
    cost = meter.cost()
    assert cost == SaveCost(batch_s=1.0, stall_s=0.5, slowdown_s=cost.slowdown_s, write_s=2.0, num_saves=1)
    assert cost.slowdown_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("writes", "median", "num_saves"),
    [
        ([2.0], 2.0, 1),
        ([2.0, 4.0], 3.0, 2),
        ([2.0, 90.0, 2.2], 2.2, 3),
        ([2.0] * 9 + [90.0], 2.0, 5),  # one met a busy disk
        ([2.0] * 9 + [8.0] * 3, 8.0, 5),  # the disk is slower
    ],
)
def test_the_cost_of_a_save_is_the_median_of_the_last(writes, median, num_saves):
    meter = warm()
    for write_s in writes:
        save(meter, stall_s=write_s / 2, write_s=write_s, busy=[1.25] * round(5 * write_s))
    cost = meter.cost()
    assert (cost.stall_s, cost.write_s) == (median / 2, median)
    assert cost.slowdown_s == pytest.approx(0.25 * 5 * median)
    assert (cost.num_saves, meter.num_saves) == (num_saves, len(writes))


def test_the_batch_of_the_commit_may_be_recorded_before_or_after_it():
    first, second = warm(), warm()
    for meter in (first, second):
        meter.record_stall(0.5)
        run(meter, 1.5, busy=True)
    run(first, 1.5, busy=True)
    first.record_commit(2.0, 40.0, 38.0)
    second.record_commit(2.0, 40.0, 38.0)
    run(second, 1.5, busy=True)
    run(first, 1.0)
    run(second, 1.0)
    assert first.cost() == second.cost()
    assert first.cost().slowdown_s == 1.0


def test_a_recurring_delay_is_not_a_slowdown():
    seconds = cycle([1.0] * 7 + [9.0])
    meter = warm(*islice(seconds, 64))
    for _ in range(5):
        save(meter, busy=islice(seconds, 8))
        run(meter, *islice(seconds, 63))
    assert meter.cost().slowdown_s == pytest.approx(0.0)
    assert meter.total_slowdown_s == pytest.approx(0.0)


def test_two_saves_in_a_row_share_their_slowdown():
    meter = warm()
    meter.record_stall(0.1)
    run(meter, 1.5, busy=True)
    meter.record_stall(0.1)
    meter.record_commit(2.0, 40.0, 38.0)
    run(meter, 1.25, 1.25, busy=True)
    run(meter, 1.0)
    assert meter.total_slowdown_s == pytest.approx(1.0)
    assert meter.cost().slowdown_s == pytest.approx(0.4)  # a fifth of the two seconds per save


def test_batches_that_are_faster_by_noise_give_no_credit():
    meter = warm()
    save(meter, busy=[0.9])
    assert (meter.cost().slowdown_s, meter.total_slowdown_s) == (0.0, 0.0)
    save(meter, busy=[1.1])
    assert meter.total_slowdown_s == pytest.approx(0.0)


def test_batches_that_become_faster_during_a_write_are_neither_gain_nor_slowdown():
    meter = warm(*[3.0] * 128)
    save(meter, busy=[1.0] * 20)
    assert (meter.cost().slowdown_s, meter.total_slowdown_s) == (0.0, 0.0)
    run(meter, *[1.0] * 128)
    assert meter.cost().slowdown_s == 0.0


def test_one_pause_of_the_machine_during_a_write_is_not_a_cost_of_writes():
    meter = warm()
    for pause in (0.0, 0.0, 60.0, 0.0, 0.0):
        save(meter, busy=[1.25] * 7 + [1.25 + pause])
    assert meter.cost().slowdown_s == pytest.approx(2.0)


def test_a_coarse_clock_breaks_nothing():
    meter = warm(0.0, 0.0, 0.0)
    save(meter, busy=[0.0, 0.0])
    save(meter, busy=[0.001])
    assert meter.cost().slowdown_s <= 0.001


def test_skipped_saves_and_waits_are_counted():
    meter = warm()
    meter.record_skip()
    meter.record_skip()
    meter.record_stall(0.75, wait_s=0.5)
    assert (meter.num_skipped, meter.total_stall_s, meter.total_wait_s) == (2, 0.75, 0.5)


def test_an_extended_stall_counts_in_full():
    meter = warm()
    meter.record_stall(0.25)
    meter.extend_stall(0.5)
    meter.record_commit(1.0, at_s=10.0, position_s=9.0)
    assert meter.total_stall_s == 0.75
    assert meter.cost().stall_s == 0.75


# The run


def test_overhead_is_the_cost_over_the_time_without_it():
    meter = warm()
    assert meter.overhead(0.0) == 0.0
    assert meter.overhead(100.0) == 0.0
    save(meter, stall_s=0.5, busy=[1.5])
    assert meter.overhead(101.0) == 0.01
    save(meter, stall_s=1.0)
    assert meter.overhead(102.0) == 0.02
    assert meter.overhead(1.0) == 0.0  # nothing was trained yet


def test_work_at_risk_is_the_exact_average():
    meter = Meter()
    assert meter.at_risk_s(0.0) == 0.0
    assert meter.at_risk_s(10.0) == 5.0  # 0 to 10
    meter.record_commit(2.0, at_s=12.0, position_s=10.0)  # 0 to 12, and from there 2
    assert meter.at_risk_s(12.0) == 6.0
    assert meter.at_risk_s(20.0) == (72 + (100 - 4) / 2) / 20
    meter.record_commit(2.0, at_s=22.0, position_s=20.0)
    assert meter.at_risk_s(22.0) == (72 + (144 - 4) / 2) / 22
    assert meter.at_risk_s(22.0) == meter.at_risk_s(22.0), "a question changes nothing"


def test_a_later_commit_of_an_older_state_makes_nothing_safer():
    meter = Meter()
    meter.record_commit(1.0, at_s=10.0, position_s=9.0)
    meter.record_commit(5.0, at_s=10.0, position_s=5.0)
    assert meter.at_risk_s(11.0) == (50 + (4 - 1) / 2) / 11


@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1)), max_size=20), st.floats(0, 50))
def test_work_at_risk_equals_a_numerical_integral(saves, rest):
    meter, now, safe, integral = Meter(), 0.0, 0.0, 0.0
    for gap, share in saves:
        integral += gap * (now + gap / 2 - safe)  # the area of a trapezium
        now += gap
        safe = now - share * gap
        meter.record_commit(1.0, now, safe)
    integral += rest * (now + rest / 2 - safe)
    now += rest
    assert meter.at_risk_s(now) == pytest.approx(integral / now if now else 0.0, abs=1e-6)


# Over restarts


def busy_meter():
    meter = warm(*[1.0, 1.25] * 20)
    meter.expect_bytes(1000)
    save(meter, busy=[1.5])
    meter.record_skip()
    meter.record_stall(0.25, 0.125)
    meter.record_commit(3.0, at_s=50.0, position_s=47.0)
    run(meter, 1.0)
    return meter


def facts(meter, now_s=60.0):
    return (
        meter.cost(),
        meter.overhead(now_s),
        meter.at_risk_s(now_s),
        (meter.total_stall_s, meter.total_wait_s, meter.total_slowdown_s, meter.num_saves, meter.num_skipped),
    )


def test_a_meter_continues_from_its_state():
    before, after = busy_meter(), warm(*[7.0] * 9)
    save(after)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert facts(after) == facts(before)
    for meter in (before, after):
        save(meter, busy=[2.0])
        meter.record_commit(1.0, at_s=70.0, position_s=69.0)
    assert facts(after, 80.0) == facts(before, 80.0)


def test_the_state_of_a_meter_is_plain_and_does_not_grow():
    meter = warm(*[1.0] * 1000)
    for _ in range(100):
        save(meter, busy=[1.0])
    values = list(meter.state_dict().values())
    assert all(type(v) in (int, float) or all(type(x) is float for x in v) for v in values)
    assert sum(len(v) for v in values if isinstance(v, list)) < 300


def test_the_save_that_a_run_resumes_from_counts():
    before, after = busy_meter(), Meter()
    state = before.state_dict()
    after.load_state_dict(state)
    after.resumed(saved(elapsed_s=58.0, stall_s=0.5, wait_s=0.25, write_s=4.0))
    assert after.num_saves == before.num_saves + 1
    assert after.total_stall_s == before.total_stall_s + 0.5
    assert after.total_wait_s == before.total_wait_s + 0.25
    assert after.at_risk_s(58.0) == before.at_risk_s(58.0)
    assert after.at_risk_s(60.0) == (58.0 * before.at_risk_s(58.0) + 2) / 60  # from 58 on it is safe
    run(after, 9.0, 1.0)
    assert after.cost().slowdown_s == before.cost().slowdown_s, "what that save slowed down happens again"
    assert after.cost().batch_s == pytest.approx(before.cost().batch_s, rel=0.05)
