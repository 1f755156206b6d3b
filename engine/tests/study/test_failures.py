"""Models of failures: their means, their shapes, and what they refuse."""

import math
from itertools import islice
from random import Random

import pytest

from cairn.study.failures import Exponential, Trace, Weibull, mtbf_of_nodes_s


def drawn(failures, number=40_000):
    return list(islice(failures.uptimes_s(Random(7)), number))


@pytest.mark.parametrize(
    "failures", [Exponential(50.0), Weibull(50.0, 0.7), Weibull(50.0, 3.0), Trace([10.0, 40.0, 100.0])]
)
def test_the_mean_uptime_is_the_mean_time_between_failures(failures):
    assert failures.mtbf_s == pytest.approx(50.0)
    assert math.fsum(drawn(failures)) / 40_000 == pytest.approx(50.0, rel=0.03)


@pytest.mark.parametrize(("shape", "early"), [(0.7, 0.21), (1.0, 0.095), (3.0, 0.0007)])
def test_the_shape_says_how_often_an_attempt_fails_early(shape, early):
    # P(uptime < mtbf / 10) = 1 - exp(-(gamma(1 + 1 / shape) / 10) ** shape)
    exact = 1 - math.exp(-((math.gamma(1 + 1 / shape) / 10) ** shape))
    assert exact == pytest.approx(early, rel=0.1)
    assert sum(uptime < 5.0 for uptime in drawn(Weibull(50.0, shape))) / 40_000 == pytest.approx(exact, abs=0.006)


def test_a_weibull_of_shape_1_is_exponential():
    assert drawn(Weibull(50.0, 1.0), 100) == pytest.approx(drawn(Exponential(50.0), 100))


def test_a_trace_gives_what_was_recorded_and_nothing_else():
    assert {*drawn(Trace([1.0, 2.0, 8.0]), 1000)} == {1.0, 2.0, 8.0}


def test_the_published_rate_of_llama_3_is_a_failure_every_three_hours():
    rate = 419 / 54 / 2048 * 1000  # interruptions, days, nodes of 8 GPUs
    assert mtbf_of_nodes_s(rate, 2048) / 3600 == pytest.approx(3.09, abs=0.01)
    assert mtbf_of_nodes_s(rate, 1) / 86400 == pytest.approx(264, abs=1)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Exponential(0.0), "mtbf_s"),
        (lambda: Exponential(math.nan), "mtbf_s"),
        (lambda: Weibull(1.0, -1.0), "shape"),
        (lambda: Trace([]), "at least one"),
        (lambda: Trace([1.0, 0.0]), "recorded_s"),
    ],
)
def test_what_cannot_be_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()
