"""A signal is remembered and nothing more, and afterwards the handlers are those that were there before."""

import os
import signal
import threading

import pytest

from cairn.cluster.signals import STOP_SIGNALS, StopSignals

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
    with StopSignals() as callback:
        callback.on_train_start(None, None)
        yield callback


def current():
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


def test_none_came(signals):
    assert signals.requested() == 0


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered(signals, number):
    signal.raise_signal(number)
    assert signals.requested() == number
    assert signals.requested() == number, "asking does not forget"


@pytest.mark.parametrize(("first", "second"), [(SIGTERM, SIGINT), (SIGINT, SIGTERM), (SIGTERM, SIGTERM)])
def test_the_first_one_counts(signals, first, second):
    signal.raise_signal(first)
    signal.raise_signal(second)
    assert signals.requested() == first


def test_a_second_ctrl_c_stops_at_once(signals):
    signal.raise_signal(SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGINT)
    assert signals.requested() == SIGINT


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
    with StopSignals() as signals:
        assert current() != handlers
        signals.on_train_start(None, None)
        signals.on_train_end(None, None)
        assert current() != handlers, "a test after the training can be stopped, too"
    assert current() == handlers


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("place", ["before", "on_train_end", "on_exception"])
def test_where_there_is_nothing_to_save_the_first_one_stops_at_once(number, place):
    with StopSignals() as signals:
        if place != "before":
            signals.on_train_start(None, None)
            getattr(signals, place)(None, None, *([RuntimeError()] if place == "on_exception" else []))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert signals.requested() == number


def test_the_handlers_of_lightning_are_replaced_when_training_starts(handlers):
    with StopSignals() as signals:
        signal.signal(SIGTERM, signal.SIG_IGN)
        signals.on_train_start(None, None)
        signal.raise_signal(SIGTERM)
        assert signals.requested() == SIGTERM


def test_outside_the_main_thread_nothing_is_caught(handlers):
    def enter():
        with StopSignals() as signals:
            signals.on_train_start(None, None)
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
    assert signals.requested() == 0
