"""When what has failed is tried again."""

import pytest

from cairn.remote.backoff import Backoff


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_the_wait_doubles_up_to_five_minutes_and_ends_with_a_success(clock):
    backoff, delays = Backoff(clock), []
    for _ in range(11):
        backoff.failed("upload", may_pass=True)
        assert not backoff.is_over("upload")
        assert backoff.is_over("delete")
        delays.append(backoff.left_s(["upload"]))
        clock.now_s += backoff.left_s(["upload"])
        assert backoff.is_over("upload")
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    backoff.succeeded("upload")
    assert backoff.left_s(["upload", "delete"]) is None
    backoff.failed("upload", may_pass=True)
    assert backoff.left_s(["upload"]) == 1


def test_at_the_end_the_waits_are_short_and_what_does_not_pass_is_given_up(clock):
    backoff = Backoff(clock)
    for _ in range(8):
        backoff.failed("upload", may_pass=True)
        backoff.failed("delete", may_pass=False)
    backoff.end()
    assert backoff.is_over("upload")
    assert backoff.is_over("delete")
    for number in range(8):
        backoff.failed("upload", may_pass=True)
        assert backoff.left_s(["upload"]) <= 5
        if number < 3:
            backoff.failed("delete", may_pass=False)
        clock.now_s += 5
    assert backoff.is_over("upload")
    assert not backoff.is_over("delete")
    backoff.succeeded("upload")
    assert backoff.left_s(["upload", "delete"]) is None, "nothing is waited for"
