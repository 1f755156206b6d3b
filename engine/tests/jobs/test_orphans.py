"""A rank ends with its main process, also while it waits for it."""

import os
import signal
import sys
import time

import pytest

from cairn.jobs import orphans

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks")


def start(grace_s):
    """Return a main process with a rank that hangs, and the pipe that ends with the rank."""
    reads, writes = os.pipe()
    main = os.fork()
    if main == 0:
        if os.fork() == 0:
            os.dup2(writes, 2)
            os.close(reads)
            orphans.end_with_parent(0.01, grace_s)
            os.write(2, b"watches\n")
            time.sleep(600)
        os.close(writes)
        time.sleep(600)
    os.close(writes)
    return main, os.fdopen(reads)


def test_a_rank_that_waits_for_a_main_process_that_was_killed_exits():
    main, said = start(0.05)
    with said:
        assert said.readline() == "watches\n"
        os.kill(main, signal.SIGKILL)
        os.waitpid(main, 0)
        text = said.read()  # until the rank has ended
    assert text.startswith(f"The main process of this run (process {main}) ended 0.05 s ago: process ")
