"""When a watchdog raises an alarm: looks at the signs with given times, without a clock."""

import bdb
import code
import sys
import threading

import pytest

from cairn.account.watchdog import Watchdog, is_debugged
from cairn.policy.patience import Patience

AUTO = Patience()


class Signs:
    """Signs of life that a test sets."""

    def __init__(self):
        self.training, self.save = 0, None


def watched(patience=AUTO, starting=False):
    signs, alarms = Signs(), []
    watchdog = Watchdog(patience, {"training": lambda: signs.training, "save": lambda: signs.save}, alarms.append)
    watchdog.starting = starting
    return watchdog, signs, alarms


def look(watchdog, times, passed_s=5.0):
    for _ in range(times):
        watchdog.look(passed_s)


def test_silence_for_ten_minutes_is_an_alarm_and_not_before():
    watchdog, _, alarms = watched()
    look(watchdog, 120)
    assert alarms == []
    look(watchdog, 1)
    assert [(alarm.what, alarm.silent_s, alarm.limit_s) for alarm in alarms] == [("training", 600, 600)]


def test_each_sign_begins_a_new_silence_and_the_longest_one_sets_the_limit():
    watchdog, signs, alarms = watched()
    for silent in (1, 20, 24, 3):  # 24 looks: two minutes
        look(watchdog, silent)
        signs.training += 1
    look(watchdog, 240)
    assert alarms == []
    look(watchdog, 1)
    (alarm,) = alarms
    assert alarm.limit_s == pytest.approx(1200, abs=60)
    assert alarm.silent_s >= alarm.limit_s


def test_a_silence_that_goes_on_does_not_raise_its_own_limit():
    watchdog, _, alarms = watched()
    look(watchdog, 125)
    assert {alarm.limit_s for alarm in alarms} == {600}


def test_the_start_has_a_limit_of_its_own_until_the_first_boundary():
    watchdog, _, alarms = watched(starting=True)
    look(watchdog, 720)
    assert alarms == []
    look(watchdog, 1)
    assert [alarm.limit_s for alarm in alarms] == [3600]
    watchdog, _, alarms = watched(starting=True)
    look(watchdog, 500)
    watchdog.starting = False
    look(watchdog, 1)
    assert [alarm.limit_s for alarm in alarms] == [600]


def test_a_save_that_makes_no_progress_is_an_alarm_although_training_goes_on():
    watchdog, signs, alarms = watched()
    signs.save = (0, 0)
    for number in range(200):
        signs.training += 1
        signs.save = (0, min(number, 50))  # it writes, and then it stands still
        watchdog.look(5.0)
    assert {alarm.what for alarm in alarms} == {"save"}
    assert alarms[0].silent_s == 600


def test_time_without_a_save_is_not_a_silent_save():
    watchdog, signs, alarms = watched()
    for _ in range(300):
        signs.training += 1
        watchdog.look(5.0)
    signs.save = (1, 0)
    look(watchdog, 2)
    assert alarms == []


def test_uploads_at_the_end_have_their_time_in_addition():
    watchdog, _, alarms = watched()
    watchdog.more_s = 600.0
    look(watchdog, 240)
    assert alarms == []
    look(watchdog, 1)
    assert [alarm.limit_s for alarm in alarms] == [1200]


def test_what_is_under_way_has_its_time_in_addition():
    slack, alarms, limits = [0.0], [], []
    watchdog = Watchdog(AUTO, {"save": lambda: 1}, alarms.append, limits.append, lambda: slack[0])
    watchdog.starting, slack[0] = False, 1000.0  # a large file is being synced
    look(watchdog, 320)
    assert alarms == []
    look(watchdog, 1)
    assert (alarms[0].limit_s, limits[-1]) == (1600, 1600)


def test_after_stop_there_is_no_alarm():
    watchdog, _, alarms = watched()
    watchdog.stop()
    look(watchdog, 1000)
    assert alarms == []


def test_endless_patience_starts_no_thread():
    watchdog, _, _ = watched(Patience(float("inf"), 0.0))
    before = threading.active_count()
    watchdog.start()
    assert threading.active_count() == before


def test_the_thread_raises_the_alarm_by_itself_and_ends():
    heard = threading.Event()
    watchdog = Watchdog(Patience(0.05, 0.0), {"training": lambda: 0}, lambda alarm: heard.set())
    watchdog.starting = False
    watchdog.start()
    assert heard.wait(60)
    watchdog.stop()
    assert not watchdog._thread.is_alive()


def test_stop_waits_for_a_look_that_has_begun():
    begun, goes_on = threading.Event(), threading.Event()

    def on_look(limit_s):
        begun.set()
        goes_on.wait(0.05)  # nothing sets it

    before = threading.active_count()
    watchdog = Watchdog(Patience(0.05, 0.0), {"training": lambda: None}, lambda alarm: None, on_look)
    watchdog.start()
    assert begun.wait(60)
    watchdog.stop()
    assert threading.active_count() == before


def test_an_alarm_may_stop_its_own_watchdog():
    stopped = threading.Event()

    def on_alarm(alarm):
        watchdog.stop()
        stopped.set()

    watchdog = Watchdog(Patience(0.05, 0.0), {"training": lambda: 0}, on_alarm)
    watchdog.starting = False
    watchdog.start()
    assert stopped.wait(60)
    watchdog._thread.join(60)
    assert not watchdog._thread.is_alive()


@pytest.mark.parametrize("clock", [[0.0, 0.02, 900.0, 900.02, 900.04, 900.06], [0.0, 0.02, 1.0, 2.0, 3.0, 4.0]])
def test_time_in_which_the_process_did_not_run_does_not_count(monkeypatch, clock):
    """Between two looks lie 15 minutes or a second, where 20 ms were expected: stopped, suspended, swapped out."""
    watchdog, _, alarms = watched(Patience(0.2, 0.0))
    left, waits = iter(clock), iter([False] * (len(clock) - 1) + [True])
    monkeypatch.setattr("cairn.account.watchdog.time.monotonic", lambda: next(left))
    monkeypatch.setattr(watchdog._over, "wait", lambda _: next(waits))
    watchdog._watch()
    assert alarms == []
    assert watchdog._silences["training"].now_s <= 0.2


def test_a_debugger_in_any_thread_is_seen():
    assert not is_debugged()
    seen = []

    class Quiet(bdb.Bdb):
        def user_line(self, frame):
            seen.append(is_debugged())
            self.set_continue()

    Quiet().run("x = 1")
    assert seen == [True]
    code.InteractiveConsole({"look": lambda: seen.append(is_debugged())}).runcode(compile("look()", "<t>", "exec"))
    assert seen == [True, True]
    assert not is_debugged()


def test_a_trace_function_of_the_main_thread_is_a_debugger():
    found = []

    def traced():
        found.append(is_debugged())

    before = sys.gettrace()
    sys.settrace(lambda *_: lambda *_: None)
    try:
        traced()
    finally:
        sys.settrace(before)
    assert found == [True]
