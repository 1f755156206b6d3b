"""A process next to the training: what it inherits, and that its start waits for nothing."""

import os
import signal
import time

import pytest

from cairn import helper_process
from cairn.helper_process import HelperProcess

WAITS = "import time; time.sleep(1000)"


@pytest.mark.parametrize(("code", "expected"), [("raise SystemExit(3)", 3), ("", 0)])
def test_its_exit_code_is_known_when_it_has_ended(code, expected):
    own = HelperProcess(["-c", code], [], os.environ)
    assert own.wait() == own.poll() == expected
    own.kill()


def test_it_runs_until_it_is_killed():
    own = HelperProcess(["-c", WAITS], [], os.environ)
    assert own.poll() is None
    assert not own.ends_within(0)
    own.kill()
    assert own.wait() == own.poll() == -signal.SIGKILL
    assert own.ends_within(0)


def test_it_inherits_what_it_is_given_and_leads_a_session_of_its_own():
    ours, theirs = os.pipe()
    other = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(other, True)
    code = f"""
import os
try:
    os.fstat({other})
except OSError:
    os.write({theirs}, f"{{os.getsid(0) == os.getpid()}} {{os.environ['WORD']}} {{os.read(0, 1)}}".encode())
"""
    own = HelperProcess(["-c", code], [theirs], {**os.environ, "WORD": "it"})
    os.close(theirs)
    assert os.read(ours, 100) == b"True it b''"
    assert own.wait() == 0
    os.close(ours)
    os.close(other)


def test_its_start_does_not_wait_for_a_worker_that_is_forked_at_that_moment(monkeypatch):
    spawn, workers = os.posix_spawn, []

    def spawned_with_a_worker(*arguments, **options):
        if (worker := os.fork()) == 0:
            time.sleep(1000)
        workers.append(worker)
        return spawn(*arguments, **options)

    monkeypatch.setattr(helper_process.os, "posix_spawn", spawned_with_a_worker)
    own = HelperProcess(["-c", ""], [], os.environ)
    assert own.wait() == 0
    (worker,) = workers
    assert os.waitpid(worker, os.WNOHANG) == (0, 0), "the worker still has all descriptors"
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def test_how_it_ended_is_not_known_where_children_are_not_waited_for():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        own = HelperProcess(["-c", "raise SystemExit(3)"], [], os.environ)
        assert own.wait() == 0
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_system_without_sessions_is_an_error_of_the_system(monkeypatch):
    def refuse(*arguments, **options):
        raise NotImplementedError("setsid")

    monkeypatch.setattr(helper_process.os, "posix_spawn", refuse)
    with pytest.raises(OSError, match="cannot start a process in a session of its own"):
        HelperProcess([], [], {})
