"""A job is requeued at most once: by SLURM, by submitit, or by its batch script."""

import signal
import subprocess
from contextlib import nullcontext

import pytest

from cairn.jobs import requeue, slurm
from cairn.jobs.allocation import Allocation
from cairn.jobs.signals import Interrupts

BY_SUBMITIT = Allocation("slurm", "15_2", requeued_by="submitit")
LOCAL = Allocation("submitit_local", "99", requeued_by="submitit")


@pytest.fixture
def asked(monkeypatch):
    """The calls of submitit's handler, during which signals are ignored."""
    calls = []

    def handler(number, frame):
        calls.append(number)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN

    before = signal.signal(signal.SIGUSR2, handler)
    yield calls
    signal.signal(signal.SIGUSR2, before)


def state(monkeypatch, name):
    monkeypatch.setattr(slurm, "job_state", lambda number: slurm.JobState({"15_2": name}[number], 0, None))


@pytest.mark.parametrize("reason", ["SIGTERM", "SIGUSR1", "SIGUSR2", "job_time_limit"])
@pytest.mark.parametrize(
    ("slurm_says", "expected"), [("RUNNING", 1), ("COMPLETING", 0), ("PENDING", 0), ("CANCELLED", 0)]
)
def test_submitit_requeues_a_job_exactly_if_slurm_does_not(monkeypatch, asked, reason, slurm_says, expected):
    state(monkeypatch, slurm_says)
    with Interrupts() as signals:
        requeue.requeue_if_needed(reason, BY_SUBMITIT, signals)
    assert asked == [signal.SIGUSR2] * expected


@pytest.mark.parametrize(
    ("given", "reason", "expected"),
    [
        (Allocation(), "SIGTERM", 0),
        (Allocation("slurm", "17"), "SIGUSR2", 0),
        (Allocation("slurm", "17", requeued_by="script"), "SIGUSR2", 0),
        (BY_SUBMITIT, "SIGINT", 0),
        (LOCAL, "SIGUSR2", 1),
        (LOCAL, "job_time_limit", 1),
        (LOCAL, "SIGTERM", 0),
        (LOCAL, "SIGHUP", 0),
        (LOCAL, "SIGINT", 0),
    ],
)
def test_submitit_requeues_only_its_own_jobs_and_only_what_no_person_stopped(
    monkeypatch, asked, given, reason, expected
):
    state(monkeypatch, "RUNNING")
    with Interrupts() as signals:
        requeue.requeue_if_needed(reason, given, signals)
    assert len(asked) == expected


@pytest.mark.parametrize(
    ("reason", "expected"), [("SIGTERM", 0), ("SIGUSR1", 1), ("SIGUSR2", 1), ("job_time_limit", 1)]
)
def test_without_an_answer_of_slurm_a_job_is_requeued_unless_it_may_be_preempted(
    monkeypatch, asked, caplog, reason, expected
):
    def fail(number):
        raise slurm.SlurmError("no controller")

    monkeypatch.setattr(slurm, "job_state", fail)
    with Interrupts() as signals:
        requeue.requeue_if_needed(reason, BY_SUBMITIT, signals)
    assert len(asked) == expected
    assert "no controller" in caplog.text


@pytest.mark.parametrize("then", ["COMPLETING", "PENDING", "CANCELLED", "RUNNING"])
def test_slurm_may_decide_between_the_query_and_the_requeue(monkeypatch, then):
    def refused(number, frame):
        raise subprocess.CalledProcessError(1, ["scontrol", "requeue", "15_2"])

    states = iter(["RUNNING", then])
    monkeypatch.setattr(slurm, "job_state", lambda number: slurm.JobState(next(states), 0, None))
    before = signal.signal(signal.SIGUSR2, refused)
    outcome = pytest.raises(subprocess.CalledProcessError) if then == "RUNNING" else nullcontext()
    try:
        with Interrupts() as signals, outcome:
            requeue.requeue_if_needed("SIGTERM", BY_SUBMITIT, signals)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_error_of_submitit_is_raised(monkeypatch):
    def handler(number, frame):
        raise RuntimeError("timed out too often")

    state(monkeypatch, "RUNNING")
    before = signal.signal(signal.SIGUSR2, handler)
    try:
        with Interrupts() as signals, pytest.raises(RuntimeError, match="too often"):
            requeue.requeue_if_needed("SIGUSR2", BY_SUBMITIT, signals)
    finally:
        signal.signal(signal.SIGUSR2, before)
