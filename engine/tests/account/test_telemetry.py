"""The account of a run's saves: counted once each, told to the loggers, and carried over restarts."""

from dataclasses import replace

import pytest
from tests.support.values import saved

from cairn.account import clock
from cairn.account.telemetry import Telemetry


class Logger:
    def __init__(self):
        self.told = []

    def log_metrics(self, metrics, step):
        self.told.append((step, metrics))


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    hand = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: hand[0])
    return hand


@pytest.fixture
def account(now):
    made = Telemetry()
    made.clock.start()
    return made


def _save(account, number, at_s):
    account.save_begun(at_s)
    account.save_staged()
    return replace(saved(number), elapsed_s=at_s, stall_s=0.25, write_s=2.0, num_bytes=1000)


def test_what_a_save_has_cost_is_told_to_every_logger_at_its_step(account, now):
    loggers = [Logger(), Logger()]
    one = _save(account, 1, at_s=4.0)
    account.meter.record_stall(0.25)
    account.save_committed(one, 106.0, loggers)
    now[0] = 110.25
    two = replace(_save(account, 2, at_s=8.0), interval_batches=7)
    account.save_committed(two, 110.25, loggers)
    assert loggers[0].told == loggers[1].told
    first, second = loggers[0].told
    assert first == (
        one.position.step,
        {
            "checkpoint/stall_s": 0.25,
            "checkpoint/wait_s": 0.0,
            "checkpoint/write_s": 2.0,
            "checkpoint/bytes": 1000,
            "checkpoint/overhead": 0.0,  # the clock says that no time has passed since the start
            "checkpoint/skipped": 0,
        },
    )
    assert second[1]["checkpoint/interval_batches"] == 7
    assert second[1]["checkpoint/overhead"] == pytest.approx(0.25 / 10)
    assert account.num_saves == 2


def test_what_is_stored_with_a_save_counts_it_and_those_still_on_their_way(account):
    account.save_committed(_save(account, 1, 1.0), 101.0, [])
    _save(account, 2, 2.0)
    assert account.num_saves == 1
    assert account.state_dict(3.0)["num_saves"] == 3
    account.save_failed()
    assert account.state_dict(3.0)["num_saves"] == 2


def test_a_run_goes_on_with_its_account(account, now):
    state = account.state_dict(4.0)
    one = _save(account, 1, at_s=4.0)
    later = Telemetry()
    later.load_state_dict(state, one)
    now[0] = 500.0
    later.clock.start()
    now[0] = 501.5
    assert (later.num_saves, later.last_save_s, later.elapsed_s) == (1, 4.0, 5.5)
    assert later.meter.total_stall_s == 0.25  # the save itself is in the account of the run that goes on from it


def test_one_from_before_there_was_a_meter_is_read(account):
    account.load_state_dict({"elapsed_s": 9.0, "num_saves": 3}, None)
    assert (account.num_saves, account.last_save_s, account.meter.total_stall_s) == (3, 9.0, 0.0)


def test_one_that_was_left_out_counts_as_a_save_for_those_that_go_by_time(account):
    account.save_skipped(7.0)
    assert (account.last_save_s, account.meter.num_skipped, account.num_saves) == (7.0, 1, 0)


def test_a_window_of_batches_is_shared_among_them(account, now):
    for _ in range(6):
        now[0] += 3.0
        account.record_batches(3)
        account.clock.begin_batch(busy=False)
    assert account.meter.cost().batch_s == pytest.approx(1.0)


def test_what_a_batch_waits_for_a_copy_is_a_part_of_the_stall_and_not_of_the_batch(account, now):
    for _ in range(4):
        account.clock.begin_batch(busy=False)
        now[0] += 1.0
        account.record_batches(1)
    account.meter.record_stall(0.25)
    account.clock.begin_batch(busy=True)
    now[0] += 3.0
    account.extend_stall(2.0)
    account.record_batches(1)
    cost = account.meter.cost()
    assert (cost.batch_s, cost.stall_s, account.meter.total_stall_s) == (1.0, 2.25, 2.25)
    account.clock.begin_batch(busy=False)
    now[0] += 1.0
    account.record_batches(1)
    assert account.meter.total_slowdown_s == 0.0
