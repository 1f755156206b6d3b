"""How long a run may be silent: the values that a user may write, and the limit that follows."""

from datetime import timedelta

import pytest

from cairn.policy.patience import Patience, parse


@pytest.mark.parametrize(
    ("value", "least_s", "factor"),
    [("auto", 600, 10), ("30min", 1800, 0), (90, 90, 0), ("2s", 2, 0), (timedelta(hours=2), 7200, 0)],
)
def test_what_a_user_may_write(value, least_s, factor):
    assert parse(value) == Patience(least_s, factor)
    assert parse(parse(value)) == parse(value)


@pytest.mark.parametrize("value", ["off", None, False])
def test_off_waits_for_ever(value):
    assert parse(value).is_endless
    assert parse(value).limit_s(1e6, starting=False) == float("inf")


@pytest.mark.parametrize("value", [True, 0, -1, "0s", "soon", "", float("nan"), float("inf"), [], {}, timedelta(0)])
def test_anything_else_is_refused_with_what_is_meant(value):
    with pytest.raises(ValueError, match=r"^watchdog=.* must be auto, off, or a duration such as '30min'"):
        parse(value)


@pytest.mark.parametrize(
    ("patience", "longest_s", "starting", "limit_s"),
    [
        (Patience(), 0.0, False, 600),
        (Patience(), 59.0, False, 600),
        (Patience(), 90.0, False, 900),
        (Patience(), 90.0, True, 5400),
        (Patience(), 0.0, True, 3600),
        (Patience(2.0, 0.0), 90.0, False, 2),
        (Patience(2.0, 0.0), 90.0, True, 60),
        (Patience(60.0, 0.0), 0.0, True, 360),
    ],
)
def test_the_limit(patience, longest_s, starting, limit_s):
    assert patience.limit_s(longest_s, starting) == limit_s


def test_a_silence_is_looked_at_several_times_before_it_is_too_long():
    assert Patience(2.0, 0.0).tick_s == 0.2
    assert Patience().tick_s == 5.0
