"""Requests that are made several at a time: in order, bounded, and without a thread that keeps the process."""

import threading

import pytest
from tests.support.mirrors import mirror_checkpoint, objects_at

from cairn.remote import listed, parallel


def test_results_come_in_the_order_of_the_items():
    assert parallel.each(lambda item, stopped: -item, range(50), 4) == [-item for item in range(50)]
    assert parallel.each(lambda item, stopped: item, [], 4) == []


def test_no_more_calls_run_at_a_time_than_allowed():
    lock, now, most = threading.Lock(), [0], [0]
    meet = threading.Barrier(3)

    def call(item, stopped):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        meet.wait(60)  # three at a time, or never
        with lock:
            now[0] -= 1

    parallel.each(call, range(6), 3)
    assert most == [3]


def test_the_first_error_ends_it_although_another_call_hangs():
    release, hangs = threading.Event(), []

    def call(item, stopped):
        if item == 0:
            hangs.append(threading.current_thread())
            release.wait(60)
            return stopped.is_set()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        parallel.each(call, range(2), 2)
    assert all(thread.daemon for thread in hangs), "it would keep the process"
    release.set()


def test_records_are_read_on_threads_that_do_not_keep_the_process(tmp_path, monkeypatch):
    store, threads = objects_at("memory", tmp_path), []
    made = [mirror_checkpoint(store, tmp_path, number) for number in range(3)]
    real = listed.read_record

    def read(objects, stem):
        threads.append(threading.current_thread())
        return real(objects, stem)

    monkeypatch.setattr(listed, "read_record", read)
    records, bad = listed.read_records(store, listed.look(store))
    assert ([item.saved for item in records], bad) == (made, {})
    assert threads
    assert all(thread.daemon for thread in threads)
