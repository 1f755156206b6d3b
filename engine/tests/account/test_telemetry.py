"""The account of the saves of a run: each is counted once, logged, and carried over attempts."""

from dataclasses import replace

import pytest
from tests.support.values import saved

from cairn.account import clock
from cairn.account.meter import Meter
from cairn.account.telemetry import Telemetry


class Logger:
    def __init__(self):
        self.logged = []

    def log_metrics(self, metrics, step):
        self.logged.append((step, metrics))


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


class InAnotherOrder(Logger):
    def log_metrics(self, step, metrics):
        super().log_metrics(metrics, step)


def test_a_logger_may_order_its_parameters_as_it_likes(account, now):
    """Lightning passes them by keyword."""
    logger = InAnotherOrder()
    one = _save(account, 1, at_s=4.0)
    account.save_committed(one, 106.0, [logger])
    step, metrics = logger.logged[0]
    assert (step, metrics["checkpoint/bytes"]) == (one.position.step, 1000)


def test_the_cost_of_a_save_is_logged_to_every_logger_at_its_step(account, now):
    loggers = [Logger(), Logger()]
    one = _save(account, 1, at_s=4.0)
    account.meter.record_stall(0.25)
    account.save_committed(one, 106.0, loggers)
    now[0] = 110.25
    two = replace(_save(account, 2, at_s=8.0), interval_batches=7)
    account.save_committed(two, 110.25, loggers)
    assert loggers[0].logged == loggers[1].logged
    first, second = loggers[0].logged
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


def test_the_state_in_a_save_counts_it_and_pending_ones(account):
    account.save_committed(_save(account, 1, 1.0), 101.0, [])
    _save(account, 2, 2.0)
    assert account.num_saves == 1
    assert account.state_dict(3.0)["num_saves"] == 3
    account.save_failed()
    assert account.state_dict(3.0)["num_saves"] == 2


def test_a_resumed_run_continues_its_account(account, now):
    state = account.state_dict(4.0)
    one = _save(account, 1, at_s=4.0)
    later = Telemetry()
    later.load_state_dict(state, one)
    now[0] = 500.0
    later.clock.start()
    now[0] = 501.5
    assert (later.num_saves, later.last_save_s, later.elapsed_s) == (1, 4.0, 5.5)
    assert later.meter.total_stall_s == 0.25  # the save itself is in the account of the run that resumes from it


def test_a_state_without_a_meter_is_read(account):
    account.load_state_dict({"elapsed_s": 9.0, "num_saves": 3}, None)
    assert (account.num_saves, account.last_save_s, account.meter.total_stall_s) == (3, 9.0, 0.0)


def test_a_skipped_save_counts_for_triggers_by_time(account):
    account.save_skipped(7.0)
    assert (account.last_save_s, account.meter.num_skipped, account.num_saves) == (7.0, 1, 0)


def test_the_duration_of_a_window_is_shared_among_its_batches(account, now):
    for _ in range(6):
        now[0] += 3.0
        account.record_batches(3)
        account.clock.begin_batch(busy=False)
    assert account.meter.cost().batch_s == pytest.approx(1.0)


def test_waiting_for_a_copy_counts_as_stall_and_not_as_batch(account, now):
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


def test_the_cost_of_a_save_is_not_computed_for_each_short_batch(monkeypatch):
    telemetry, computed, cost = Telemetry(), [], Meter.cost
    monkeypatch.setattr(Meter, "cost", lambda self: (computed.append(1), cost(self))[1])
    for batch_s, expected in ((0.001, 100), (0.1, 800)):
        monkeypatch.setattr(telemetry.clock, "batch_s", lambda batch_s=batch_s: batch_s)
        for _ in range(128):
            telemetry.record_batches(1)
            telemetry.cost()
        computed.clear()
        for _ in range(800):
            telemetry.record_batches(1)
            telemetry.cost()
        assert len(computed) == expected
        assert telemetry.cost() is not None
