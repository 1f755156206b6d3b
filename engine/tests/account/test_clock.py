"""Training time is counted while training runs, over all attempts."""

import time

import pytest

from cairn.account.clock import Clock


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    shown = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: shown[0])
    return shown


def test_time_is_counted_between_start_and_stop_over_attempts(now):
    clock = Clock()
    clock.continue_from(50.0)
    now[0] = 110.0
    assert clock.elapsed_s == 50.0
    clock.start()
    now[0] = 117.0
    assert (clock.elapsed_s, clock.elapsed_s_at(112.0)) == (57.0, 52.0)
    clock.stop()
    now[0] = 500.0
    assert (clock.elapsed_s, clock.elapsed_s_at(600.0)) == (57.0, 57.0)


def test_a_batch_is_timed_from_its_start(now):
    clock = Clock()
    clock.start()
    clock.validated = True
    now[0] = 103.0
    assert clock.batch_s() == 3.0
    clock.begin_batch(busy=True)
    now[0] = 104.0
    assert (clock.batch_s(), clock.busy, clock.validated) == (1.0, True, False)
