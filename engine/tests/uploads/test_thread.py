"""The thread of uploads works when it is woken, and its end can be waited for."""

import logging

from cairn.uploads import thread
from cairn.uploads.thread import WakingThread


def test_reasons_are_taken_once_and_together():
    found = []

    def work(own):
        while "end" not in (due := own.take()):
            found.append(due)

    made = WakingThread("t", work)
    made.wake("a")
    made.wake("b")
    made.wake("a")
    made.start()
    made.wake("end")
    made.join(60)
    assert not made.is_alive
    assert found in ([{"a", "b"}], [])  # the end may have been given before the thread took the others


def test_a_limit_ends_the_wait_for_reasons():
    assert WakingThread("t", lambda own: None).take(0.0) == set()


def test_the_wait_for_the_end_shows_what_is_left(monkeypatch, caplog):
    monkeypatch.setattr(thread, "_SHOW_AFTER_S", 0.001)
    monkeypatch.setattr(thread, "_SHOW_EVERY_S", 0.001)
    caplog.set_level(logging.INFO)
    made = WakingThread("t", lambda own: own.take())
    made.start()
    asked = []

    def left():
        asked.append(1)
        if len(asked) == 3:
            made.wake("end")
        return "3 B left"

    made.join_with_progress(600.0, "the mirror", left)
    assert not made.is_alive
    assert caplog.text.count("Waiting for the mirror, at most ") >= 3
    assert "3 B left." in caplog.text
