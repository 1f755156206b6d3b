"""A signal is remembered and nothing more, and afterwards the handlers are those that were there before."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from cairn.jobs.signals import STOP_SIGNALS, Interruption, Interrupts, exit_code, ignore_signals
from cairn.lightning.interrupts import WatchTraining

SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, pytest gets its handlers back."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals():
    """Those of a training that is under way."""
    with Interrupts() as signals:
        WatchTraining(signals).on_train_start(None, None)
        yield signals


def current():
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


def test_none_came(signals):
    assert (signals.received, signals.name) == (0, None)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered(signals, number):
    signal.raise_signal(number)
    assert signals.received == number
    assert signals.name == number.name


@pytest.mark.parametrize(("first", "second"), [(SIGTERM, SIGINT), (SIGINT, SIGTERM), (SIGTERM, SIGTERM)])
def test_the_first_one_counts(signals, first, second):
    signal.raise_signal(first)
    signal.raise_signal(second)
    assert signals.received == first


def test_a_second_ctrl_c_stops_at_once(signals):
    signal.raise_signal(SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGINT)
    assert signals.received == SIGINT


def test_a_second_ctrl_c_stops_at_once_although_a_sigterm_came_first(signals):
    signal.raise_signal(SIGTERM)
    signal.raise_signal(SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGINT)


def test_ctrl_c_is_answered(signals, capfd):
    signal.raise_signal(SIGTERM)
    assert capfd.readouterr().err == ""
    signal.raise_signal(SIGINT)
    assert "Stopping after this batch" in capfd.readouterr().err


def test_the_handlers_from_before_come_back(handlers):
    with Interrupts() as signals:
        assert current() != handlers
        assert signals.previous_handlers == handlers
        WatchTraining(signals).on_train_start(None, None)
        WatchTraining(signals).on_fit_end(None, None)
        assert current() != handlers, "a test after the training can be stopped, too"
    assert current() == handlers


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_where_there_is_nothing_to_save_the_first_one_stops_at_once(number, place):
    with Interrupts() as signals:
        if place == "after":
            WatchTraining(signals).on_train_start(None, None)
            WatchTraining(signals).on_fit_end(None, None)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert signals.received == number


def test_what_comes_while_the_run_is_stopping_does_not_disturb_it(signals):
    WatchTraining(signals).on_exception(None, None, RuntimeError())
    signal.raise_signal(SIGTERM)
    assert signals.name == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGINT)


@pytest.mark.parametrize("second", [SIGTERM, signal.SIGUSR2])
def test_a_second_one_does_not_disturb_the_end_that_the_first_has_brought(second):
    with Interrupts() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(SIGTERM)
        signal.raise_signal(second)
        assert signals.name == "SIGTERM"


def test_the_handlers_of_lightning_are_replaced_when_training_starts(handlers):
    with Interrupts() as signals:
        signal.signal(SIGTERM, signal.SIG_IGN)
        WatchTraining(signals).on_train_start(None, None)
        signal.raise_signal(SIGTERM)
        assert signals.received == SIGTERM


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_something_may_ignore_them_and_so_does_what_it_starts(number, signals):
    def action():
        signal.raise_signal(number)
        there = f"import signal; print(int(signal.getsignal({int(number)}) == signal.SIG_IGN))"
        seen.append(subprocess.run([sys.executable, "-c", there], capture_output=True, text=True).stdout.strip())

    seen = []
    before = current()
    with ignore_signals():
        action()
    assert (seen, signals.received, current()) == (["1"], 0, before)


@pytest.mark.parametrize(
    ("why", "expected"), [("SIGINT", 130), ("SIGUSR1", 138), ("SIGUSR2", 140), ("SIGTERM", 143), ("job_time_limit", 75)]
)
def test_how_a_process_ends_that_was_stopped(why, expected):
    assert exit_code(why) == expected
    assert (Interruption(why).code, Interruption(why).reason) == (expected, why)


def test_outside_the_main_thread_nothing_is_caught(handlers):
    def enter():
        with Interrupts() as signals:
            signals.reinstall()
            found.update(current())

    found = {}
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == handlers


def test_a_worker_that_inherits_the_handlers_ignores_them(signals, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for number in (SIGTERM, SIGINT, SIGINT):
        signal.raise_signal(number)
    assert signals.received == 0
