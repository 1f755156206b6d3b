"""Sizes and durations: what people read, and what they may write."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn import units
from cairn.units import format_bytes, format_duration, parse_duration_s, parse_size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1500, "1.5 kB"),
        (12_345_678, "12.3 MB"),
        (999_400, "999 kB"),
        (999_999, "1 MB"),
        (999_999_999, "1 GB"),
        (2 * 10**12, "2 TB"),
        (4.56e15, "4560 TB"),
    ],
)
def test_a_size_is_shown_in_the_largest_unit_that_it_reaches(num_bytes, text):
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "digits", "text"),
    [
        (0.0, 3, "0 s"),
        (0.00579, 3, "5.79 ms"),
        (0.00342, 2, "3.4 ms"),
        (0.9994, 3, "999 ms"),
        (0.9996, 3, "1 s"),
        (1.0, 3, "1 s"),
        (12.34, 2, "12 s"),
        (105.0, 2, "100 s"),
        (119.4, 3, "119 s"),
        (119.6, 3, "1.99 min"),
        (120.0, 3, "2 min"),
        (126.0, 2, "2.1 min"),
        (640.0, 3, "10.7 min"),
        (3599.0, 3, "1 h"),
        (3600.0, 3, "1 h"),
        (7200.0, 3, "2 h"),
        (86400.0, 3, "24 h"),
        (2 * 86400.0, 3, "2 d"),
        (7 * 86400.0, 3, "7 d"),
        (9e5, 2, "10 d"),
        (1e9, 3, "11600 d"),
    ],
)
def test_a_duration_has_the_unit_that_reads_best(seconds, digits, text):
    assert format_duration(seconds, digits) == text


@given(st.floats(1e-3, 1e8), st.integers(2, 6))
def test_what_is_shown_of_a_duration_is_close_to_it(seconds, digits):
    number, unit = format_duration(seconds, digits).split()
    shown = float(number) * {**units.SECONDS_PER_UNIT, "ms": 1e-3}[unit]
    assert math.isclose(shown, seconds, rel_tol=0.51 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [(7, 7), ("7", 7), ("7B", 7), ("500MB", 5 * 10**8), ("1.5 GB", 15 * 10**8), ("2 kb", 2000), ("20GiB", 20 * 2**30)],
)
def test_a_size_may_be_written_with_a_unit(text, num_bytes):
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1", -1, 0, "0MB", "1 parsec", "1e9", True, None])
def test_an_invalid_size_is_refused(text):
    with pytest.raises(ValueError, match=rf"Invalid size {text!r}: give bytes, or '500MB'"):
        parse_size(text)


@given(st.integers(1, 10**14))
def test_a_size_that_is_shown_can_be_written(num_bytes):
    assert math.isclose(parse_size(format_bytes(num_bytes)), num_bytes, rel_tol=0.006)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        ("90", 90.0),
        ("90s", 90.0),
        ("10min", 600.0),
        ("2h", 7200.0),
        ("1.5 h", 5400.0),
        ("1d", 86400.0),
        ("00:02:30:00", 9000.0),
        ("01:00:00:05", 86405.0),
        ({"hours": 2, "minutes": 30}, 9000.0),
        ({"days": 1, "seconds": 1.5}, 86401.5),
    ],
)
def test_a_duration_may_be_written_in_several_ways(written, seconds):
    assert parse_duration_s(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "soon",
        "",
        -5,
        "-5s",
        "2ep",
        "02:30",
        "1:2:3:4",
        None,
        True,
        {},
        {"weeks": 1},
        {"hours": "two"},
        {"minutes": -5},
        ["2h"],
    ],
)
def test_an_invalid_duration_is_refused_by_the_name_of_its_setting(written):
    with pytest.raises(ValueError, match=r"^Invalid duration max_time=.*: give seconds, .*'2h'"):
        parse_duration_s(written)
    with pytest.raises(ValueError, match=r"^Invalid duration --limit="):
        parse_duration_s(written, name="--limit")


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10"), ([5, 5, 6], "5, 5-6")]
)
def test_numbers_that_follow_each_other_are_shown_as_ranges(numbers, text):
    assert units.format_ranges(numbers) == text
