"""Values look alike in all reports."""

import pytest

from cairn.study import cells


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (0.0, "0 %"), (0.031, "3.1 %"), (0.1, "10 %"), (1.5, "150 %")],
)
def test_a_share_is_shown_in_percent(share, text):
    assert cells.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.0, "0 s"), (0.00342, "3.4 ms"), (12.34, "12 s"), (126.0, "2.1 min")]
)
def test_an_unknown_duration_is_a_dash(seconds, text):
    assert cells.duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 saves"), (1, "1 save"), (12, "12 saves")])
def test_one_thing_has_no_s(number, text):
    assert cells.count(number, "save") == text
