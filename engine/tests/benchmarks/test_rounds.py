"""The order of contenders, and the interval between saves."""

import pytest
from benchmarks.rounds import Setting, distinct, interval, order


def test_the_order_turns_and_is_reversed_so_that_drift_hits_all():
    assert [order("abc", number) for number in range(4)] == [list("abc"), list("acb"), list("cab"), list("cba")]


@pytest.mark.parametrize(
    ("factor", "write_s", "batch_s", "expected"), [(5, 0.3, 0.25, 6), (20, 0.3, 0.25, 24), (5, 0.001, 0.25, 4)]
)
def test_the_interval_is_a_number_of_write_times_but_at_least_some_batches(factor, write_s, batch_s, expected):
    assert interval(factor, write_s, batch_s, least=4) == expected


def test_the_same_interval_is_not_measured_twice():
    settings = [Setting("tensors", 1, factor, number, 3, 0.1, 0.1) for factor, number in ((5, 10), (20, 10), (40, 20))]
    assert [item.factor for item in distinct(settings)] == [5, 40]
