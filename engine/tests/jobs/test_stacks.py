"""Which processes are asked for their stack traces, and killed: forked ones, and no other program."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cairn.jobs import stacks
from cairn.jobs.stacks import Answering

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and real-time signals")


def hang_here(ready, over):
    ready.set()
    over.wait(600)


def test_the_stacks_of_all_threads_have_their_names_and_the_main_thread_is_first():
    ready, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=hang_here, args=(ready, over), name="hangs-here")
    thread.start()
    ready.wait(60)
    found = []
    asking = threading.Thread(target=lambda: found.append(stacks.own_stacks()), name="asks")
    asking.start()
    asking.join()
    over.set()
    thread.join()
    assert found[0].startswith("Thread MainThread (most recent call last):\n")
    assert "Thread hangs-here" in found[0]
    assert "in hang_here" in found[0]
    assert "Thread asks" not in found[0]


@pytest.fixture
def forked(tmp_path):
    """A process that was forked while this one answers, and one of another program, which both wait."""
    log = tmp_path / "train.log"
    answering = Answering(log)
    answering.start()
    own = os.fork()
    if own == 0:
        try:
            time.sleep(600)
        finally:
            os._exit(0)
    other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    yield own, other, log
    answering.stop()
    for pid in (own, other.pid):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(own, 0)
    other.wait()


@linux_only
def test_a_forked_process_answers_and_another_program_is_left_alone(forked):
    own, other, log = forked
    found = stacks.others()
    assert own in found
    assert other.pid not in found
    said = []
    stacks.ask_others(said.append, {own: found[own]})
    limit = time.monotonic() + 60
    while "forked" not in log.read_text():
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.01)
    assert said[0].startswith(f"Process {own} (")
    assert stacks.state(own) in ("S", "R")
    assert not stacks.ask(other.pid), "the signal would end it"
    assert other.poll() is None


@linux_only
def test_only_what_was_found_is_killed(forked):
    own, other, _ = forked
    stacks.kill_others([own])
    limit = time.monotonic() + 60
    while stacks.state(own) not in ("Z", ""):
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert other.poll() is None
    assert own not in stacks.others(), "it has ended, and does not answer any more"


@linux_only
def test_after_stop_nothing_answers(tmp_path):
    answering = Answering(tmp_path / "train.log")
    answering.start()
    assert stacks._knows(os.getpid(), stacks._ASK)
    answering.stop()
    assert not stacks._knows(os.getpid(), stacks._ASK)


def test_a_log_that_cannot_be_opened_does_not_keep_a_run_from_starting(tmp_path):
    answering = Answering(tmp_path / "missing" / "train.log")
    answering.start()
    answering.stop()
