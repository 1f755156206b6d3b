"""Runs that hang: their stack traces are written, they exit with a code that launchers requeue, and they go on."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from tests.support.command import PATIENT_S, Process, newest, wait_for
from tests.support.forks import RANKS
from tests.support.paths import ENGINE
from tests.support.sweeps import run_of, starts, status, sweep

from cairn.run.directory import RunDirectory
from cairn.store import hangs
from cairn.store.catalog import Catalog

SCRIPT = str(ENGINE / "tests" / "support" / "hanging_project.py")
RANKED = ("collective", "stopped")
"""Kinds of two processes."""
pytestmark = pytest.mark.slow


def train(run: Path, kind: str) -> Process:
    run.mkdir(exist_ok=True)
    return Process([SCRIPT, str(run), kind], fresh=False, **{RANKS: "1"} if kind in RANKED else {})


def ended(run: Path, process: Process, expect: int) -> str:
    """Return the output of a run that has ended by itself, with all processes that it has started."""
    assert process.wait() == expect, process.output[-4000:]
    limit = time.monotonic() + PATIENT_S
    while left := members(process.pid):
        assert time.monotonic() < limit, f"these processes survive: {left}"
        time.sleep(0.05)
    return process.output


def members(session: int) -> list[str]:
    """Return the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(path.parent.name)
    return found


PLACES = [
    f"Rank 1 on {socket.gethostname()}: after epoch 0, batch 3, in sleep_for_ever (support/hanging_project.py:",
    f"Rank 0 on {socket.gethostname()}: after epoch 0, batch 3, in ",
    "(rank 1: ",
]


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("worker", ["Rank 0 hangs", "Process ", "in __getitem__", "in sleep_for_ever"]),
        (
            "collective",
            ["Stack traces of rank 0", "Stack traces of rank 1", "Rank 0 ends the run", "in sleep_for_ever", *PLACES],
        ),
        ("stopped", ["Rank 1 hangs", "Rank 0 does not answer. It is stopped, dead, on a node that is lost, or "]),
    ],
)
def test_a_hang_is_shown_and_ends_all_processes(tmp_path, kind, seen):
    # A main rank that is stopped cannot exit: another one notes the hang, and kills it.
    output = ended(tmp_path, train(tmp_path, kind), -signal.SIGKILL if kind == "stopped" else os.EX_TEMPFAIL)
    assert all(text in output for text in seen), output
    (hang,) = hangs.read(tmp_path / "checkpoints")
    at = 3 if kind in RANKED else 7
    assert (hang.what, hang.position.total_batches) == ("training", at)
    saved, rejected = Catalog(tmp_path / "checkpoints").newest_intact()
    assert (saved.position.total_batches, rejected) == (at - 1, [])


def test_a_run_whose_threads_cannot_run_is_ended_by_its_sentinel(tmp_path):
    output = ended(tmp_path, train(tmp_path, "lock"), -signal.SIGKILL)
    assert "hangs inside of C code that holds Python's lock" in output
    assert "in training_step" in output
    (hang,) = hangs.read(tmp_path / "checkpoints")
    assert hang.position.total_batches == 7
    assert newest(tmp_path) == "epoch_000_batch_000006.ckpt"


def test_a_run_that_hangs_three_times_without_progress_is_not_requeued_and_can_be_resumed(tmp_path):
    """In its first attempt, it is also stopped for longer than its limit, which does not count."""
    process = train(tmp_path, "step")
    assert wait_for(lambda: newest(tmp_path) == "epoch_000_batch_000006.ckpt", process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    first = ended(tmp_path, process, os.EX_TEMPFAIL)
    assert all(text in first for text in ("Rank 0 hangs", "in training_step", "in sleep_for_ever")), first
    assert "not requeued" not in first
    assert 2 <= hangs.read(tmp_path / "checkpoints")[0].silent_s < 3
    train(tmp_path, "step").end(os.EX_TEMPFAIL)
    third = train(tmp_path, "step").end(1)
    assert "has hung 3 times in a row without getting further, so it is not requeued again" in third
    train(tmp_path, "none").end()
    assert newest(tmp_path) == "epoch_000_batch_000012.ckpt"


def test_a_job_of_a_sweep_that_hangs_is_requeued(tmp_path):
    folder = tmp_path / "sweep"
    once = "+callbacks.stand={_target_: tests.support.callbacks.StandStill, at: 13}"  # only the first time
    output = sweep(folder, [4], "hydra/launcher=submitit_local", once, "checkpoint.watchdog=2s").end()
    assert "1 of 1 jobs are finished" in output
    run = run_of(folder, 4)
    first, second = starts(folder, 4)
    assert first.before is None
    assert (second.before.status, second.before.total_batches, second.begins.total_batches) == ("hung", 13, 12)
    assert "training after epoch 0, batch 13 showed no sign of life for" in second.before.why
    assert "tests/support/callbacks.py" in (run / "train.log").read_text()
    assert RunDirectory(run).record().status == "finished"
    _, jobs = status(folder)
    assert (jobs[4]["state"], jobs[4]["num_restarts"], jobs[4]["spent"]["num_starts"]) == ("finished", 1, 2)
    assert jobs[4]["spent"]["lost_s"] >= 2
