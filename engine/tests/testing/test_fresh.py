"""Processes of short runs: what is answered if one is killed by others, leaves no report, or does not end."""

import fcntl
import json
import os
import signal
import time

import pytest

from cairn.testing import fresh
from cairn.testing.fresh import FreshProcesses, RunError
from cairn.testing.proof_run import ProofRun


def load():
    """Nothing to import."""


def run(loaded, given, does):
    """Stand in for a training."""
    if does == "hang":
        if (given.directory.parent / "lock").exists():
            fcntl.flock(os.open(given.directory.parent / "lock", os.O_RDWR), fcntl.LOCK_EX)
            os.fork()  # like a worker of the data, it holds the lock, too
            given.report_file.touch()
        time.sleep(600)
    given.report_file.write_text(json.dumps({"batches": {"1": {}, "2": {}}}))
    if does == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def own_processes():
    with FreshProcesses(__name__, {}) as found:
        yield found


def test_only_a_kill_in_the_planned_batch_counts(own_processes, tmp_path):
    assert own_processes.run(ProofRun(tmp_path / "a", "killed", kill_after=2), does="killed")["batches"]
    with pytest.raises(RunError, match=r"its process ended before batch 3: perhaps memory ran out"):
        own_processes.run(ProofRun(tmp_path / "a", "killed", kill_after=3), does="killed")
    with pytest.raises(RunError, match="it ended before it could be killed"):
        own_processes.run(ProofRun(tmp_path / "a", "killed", kill_after=2), does="")


def test_a_run_that_hangs_is_ended_and_the_next_one_is_tried(own_processes, tmp_path, monkeypatch):
    monkeypatch.setattr(own_processes, "_limit_s", 0.2)
    with pytest.raises(RunError, match=r"has not ended within 0 s"):
        own_processes.run(ProofRun(tmp_path / "a", "undisturbed"), does="hang")
    monkeypatch.setattr(own_processes, "_limit_s", fresh._LIMIT_S)
    assert own_processes.run(ProofRun(tmp_path / "a", "undisturbed"), does="")["batches"]


def test_an_interruption_ends_the_run_and_what_it_has_started(tmp_path, monkeypatch):
    lock, given = tmp_path / "lock", ProofRun(tmp_path / "a", "undisturbed")
    lock.touch()

    def answer(processes, expected):
        monkeypatch.undo()
        processes._answer(expected)  # that of the start
        monkeypatch.setattr(FreshProcesses, "_answer", interrupted)

    def interrupted(processes, expected):
        while not given.report_file.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(FreshProcesses, "_answer", answer)
    with pytest.raises(KeyboardInterrupt), FreshProcesses(__name__, {}) as found:
        found.run(given, does="hang")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if a process holds it
