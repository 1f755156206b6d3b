"""Rows on their way from a journal to a tracker: each arrives once, whatever fails on the way."""

import logging
import threading

import pytest
from tests.support.trackers import MemoryStore, values

from cairn.errors import first_line
from cairn.trackers import sender as sending
from cairn.trackers.lines import Lines
from cairn.trackers.secrets import hidden
from cairn.trackers.sender import Sender
from cairn.uploads.once import ErrorsOnce

LIMIT_S = 60.0


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def journal(tmp_path):
    return Lines(tmp_path / "tracker" / "history.jsonl")


@pytest.fixture
def sender(store, journal):
    made = Sender(store, journal, ErrorsOnce("It"), lambda error: hidden(first_line(error)))
    yield made
    store.fails = 0
    assert made.end(LIMIT_S, "finished")


def add(journal, *steps):
    for step in steps:
        journal.add({"loss": 1.0 / (step + 1), "trainer/global_step": step, "_timestamp": float(step)})


def steps(store):
    return [step for step, _ in values(store.rows)]


def test_rows_arrive_in_order_and_once(sender, store, journal):
    sender.rewind(lambda: journal.cut(0))
    for step in range(7):
        add(journal, step)
        sender.wake()
    assert sender.flush(LIMIT_S)
    assert steps(store) == list(range(7))
    assert sender.flush(LIMIT_S, "finished")
    assert (steps(store), store.ended) == (list(range(7)), ["finished"])


@pytest.mark.parametrize("num_failures", range(1, 5))
@pytest.mark.parametrize("arrive", [False, True])
def test_a_tracker_that_fails_is_logged_once_and_gets_each_row_once(
    sender, store, journal, num_failures, arrive, caplog, monkeypatch
):
    sender.rewind(lambda: journal.cut(0))
    store.arrive_before_failing = arrive
    add(journal, 0, 1)
    assert sender.flush(LIMIT_S)
    store.fails = num_failures
    add(journal, 2, 3)
    with caplog.at_level(logging.ERROR):
        results = [sender.flush(LIMIT_S) for _ in range(num_failures + 1)]
    assert results == [False] * num_failures + [True]
    assert steps(store) == [0, 1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "It: could not send rows, which are sent later (https://***@host/api refused). Training continues; this "
        "message is logged once."
    ]


def test_new_rows_alone_do_not_let_a_dead_tracker_be_tried_again(sender, store, journal, monkeypatch):
    monkeypatch.setattr(sending, "_RETRY_S", 1e6)
    monkeypatch.setattr(sending, "_RETRY_MOST_S", 1e6)
    sender.rewind(lambda: journal.cut(0))
    store.fails = -1
    assert not sender.flush(LIMIT_S)
    tried = store.num_connected
    for step in range(100):
        add(journal, step)
        sender.wake()
    assert store.num_connected == tried
    store.fails = 0
    assert sender.flush(LIMIT_S)
    assert steps(store) == list(range(100))


def test_rows_are_collected_for_a_request(sender, store, journal, monkeypatch):
    monkeypatch.setattr(sending, "_PACE_S", 1e6)
    parts, sends = [], store.send
    monkeypatch.setattr(store, "send", lambda rows: (parts.append(len(rows)), sends(rows)))
    sender.rewind(lambda: journal.cut(0))
    for step in range(50):
        add(journal, step)
        sender.wake()
    assert parts == []
    assert sender.flush(LIMIT_S)
    assert [number for number in parts if number] == [50]
    assert steps(store) == list(range(50))


def test_a_resume_takes_back_the_rows_after_its_checkpoint_and_nothing_of_others(sender, store, journal):
    sender.rewind(lambda: journal.cut(0))
    add(journal, 0, 1, 2, 3)
    assert sender.flush(LIMIT_S)
    store.rows.append({"of the user": 1.0, "trainer/global_step": 9})
    assert len(sender.rewind(lambda: journal.cut(2))) == 2
    assert sender.flush(LIMIT_S)
    assert steps(store) == [0, 1, 9]
    add(journal, 2, 3)
    assert sender.flush(LIMIT_S)
    assert steps(store) == [0, 1, 9, 2, 3]


def test_a_journal_that_is_cut_while_rows_are_sent_is_compared_again(sender, store, journal, monkeypatch):
    monkeypatch.setattr(sending, "_PACE_S", 0.0)
    sender.rewind(lambda: journal.cut(0))
    add(journal, 0, 1, 2)
    sends, may_end, is_sending = store.send, threading.Event(), threading.Event()

    def slow(rows):
        is_sending.set()
        assert may_end.wait(LIMIT_S)
        sends(rows)

    monkeypatch.setattr(store, "send", slow)
    sender.wake()
    assert is_sending.wait(LIMIT_S)
    sender.rewind(lambda: journal.cut(1))
    may_end.set()
    assert sender.flush(LIMIT_S)
    assert steps(store) == [0]


def test_a_tracker_that_hangs_is_not_waited_for_longer_than_its_limit(store, journal, monkeypatch):
    hanging, errors = threading.Event(), ErrorsOnce("It")
    monkeypatch.setattr(store, "connect", hanging.wait)
    sender = Sender(store, journal, errors, str)
    assert not sender.end(0.01, "stopped")
    assert errors.silent, "what it says later is of no use"
    hanging.set()


def test_many_rows_are_sent_in_parts(sender, store, journal, monkeypatch):
    monkeypatch.setattr(sending, "_MOST_ROWS", 3)
    parts, sends = [], store.send
    monkeypatch.setattr(store, "send", lambda rows: (parts.append(len(rows)), sends(rows)))
    add(journal, *range(8))
    journal.keep()
    assert sender.flush(LIMIT_S)
    assert steps(store) == list(range(8))
    assert max(parts) <= 3


def test_a_configuration_that_is_refused_is_named_once_and_delays_no_row(sender, store, journal, monkeypatch, caplog):
    tried = []

    def refuse(config):
        tried.append(config)
        raise ValueError("a value is too long")

    monkeypatch.setattr(store, "configure", refuse)
    sender.configure({"seed": 3})
    for step in range(6):
        add(journal, step)
        journal.keep()
        assert sender.flush(LIMIT_S)
    assert steps(store) == list(range(6))
    assert len(tried) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "It: could not store the configuration of the run (a value is too long). Training continues; this message is "
        "logged once."
    ]


def test_the_configuration_is_sent_also_if_the_tracker_is_reached_later(sender, store, journal):
    store.fails = 1
    sender.configure({"seed": 3, "model": {"width": 8}})
    assert not sender.flush(LIMIT_S)
    sender.configure({"run": {"host": "a"}})
    assert sender.flush(LIMIT_S)
    assert store.config == {"seed": 3, "model": {"width": 8}, "run": {"host": "a"}}
