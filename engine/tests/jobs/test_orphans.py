"""A rank ends with its main process, also while it waits for it."""

import os
import signal
import sys
import time

import pytest

from cairn.jobs import orphans

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks")


def start(grace_s, looks_late=False):
    """Return a main process with a rank that hangs, and the pipe that ends with the rank."""
    reads, writes = os.pipe()
    main = os.fork()
    if main == 0:
        main = os.getpid()
        if os.fork() == 0:
            os.dup2(writes, 2)
            os.close(reads)
            if looks_late:
                os.write(2, b"waits\n")
                while os.getppid() == main:
                    time.sleep(0.001)
            orphans.end_with_main(main, 0.01, grace_s)
            os.write(2, b"watches\n")
            time.sleep(600)
        os.close(writes)
        time.sleep(600)
    os.close(writes)
    return main, os.fdopen(reads)


@pytest.mark.parametrize("looks_late", [False, True])
def test_a_rank_that_waits_for_a_main_process_that_was_killed_exits(looks_late):
    """Also if the main process ends before the rank looks, which has another parent by then."""
    main, said = start(0.05, looks_late)
    with said:
        assert said.readline() == ("waits\n" if looks_late else "watches\n")
        os.kill(main, signal.SIGKILL)
        os.waitpid(main, 0)
        text = said.read().removeprefix("watches\n")  # until the rank has ended
    assert text.startswith(f"The main process of this run (process {main}) ended 0.05 s ago: process ")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_a_main_process_that_is_not_the_parent_is_found_by_its_id():
    """A wrapper may lie between the two."""
    assert not orphans._has_ended(os.getpid())
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
    assert orphans._has_ended(ended)  # a zombie
    os.waitpid(ended, 0)
    assert orphans._has_ended(ended)
