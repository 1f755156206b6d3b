"""The environment says which job a process runs in; the cost of a save says when it has to stop."""

import pytest

from cairn.jobs import allocation, slurm
from cairn.jobs.allocation import Allocation, Deadline

SLURM = {"SLURM_JOB_ID": "17", "SLURM_JOB_END_TIME": "1000"}
ARRAY = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}
"""The last task of an array, whose job id is that of the whole array."""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Allocation()),
        ({"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "interactive"}, Allocation()),
        (SLURM, Allocation("slurm", "17", 0, ends_at=1000.0)),
        (
            {**SLURM, "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "3"},
            Allocation("slurm", "15_2", restarts=3, ends_at=1000.0),
        ),
        ({**SLURM, "SUBMITIT_EXECUTOR": "slurm"}, Allocation("slurm", "17", 0, "submitit", 1000.0)),
        ({**SLURM, allocation.REQUEUED_BY: "script"}, Allocation("slurm", "17", 0, "script", 1000.0)),
        (
            {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "99"},
            Allocation("submitit_local", "99", requeued_by="submitit"),
        ),
        (
            {**SLURM, "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "99"},
            Allocation("submitit_local", "99", requeued_by="submitit"),
        ),
    ],
)
def test_the_allocation_is_read_from_the_environment(environ, expected):
    assert allocation.current(environ) == expected


@pytest.mark.parametrize(("environ", "job"), [({"SLURM_JOB_ID": "17"}, "17"), (ARRAY, "17_2")])
def test_slurm_is_queried_for_an_end_that_is_not_in_the_environment(monkeypatch, environ, job):
    monkeypatch.setattr(slurm, "job_state", lambda asked: slurm.JobState("RUNNING", 0, {job: 123.0}[asked]))
    assert allocation.current(environ).ends_at == 123.0


def test_an_unknown_time_limit_is_logged(monkeypatch, caplog):
    def fail(job_id):
        raise slurm.SlurmError("no controller")

    monkeypatch.setattr(slurm, "job_state", fail)
    assert allocation.current({"SLURM_JOB_ID": "17"}).ends_at is None
    assert "no controller" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Allocation(), ""),
        (Allocation("slurm", "15_2", 3, "submitit", 1000.0), "SLURM job 15_2 (restart 3) until 1970-01-01"),
        (Allocation("slurm", "15_2", 3, "submitit", 1000.0), "submitit requeues it"),
        (Allocation("slurm", "17", requeued_by="script"), "its batch script requeues it"),
        (Allocation("slurm", "17"), "It is not requeued: run the same command again"),
        (Allocation("submitit_local", "99", requeued_by="submitit"), "Local job 99: "),
    ],
)
def test_the_log_says_at_the_start_what_requeues_the_job(given, words):
    assert words in str(given)


@pytest.mark.parametrize(
    ("ends_at", "save_s", "expected"),
    [
        (None, 0.0, False),
        (1000.0, 0.0, False),
        (100.0 + 15.1, 0.0, False),
        (100.0 + 14.9, 0.0, True),
        (100.0 + 15.0 + 2 * 10 - 0.1, 10.0, True),
        (100.0 + 15.0 + 2 * 10 + 0.1, 10.0, False),
        (50.0, 0.0, True),
    ],
)
def test_the_end_is_near_when_a_save_would_come_too_late(ends_at, save_s, expected):
    assert Deadline(ends_at, now=lambda: 100.0).is_near(save_s) is expected


def test_a_long_batch_or_validation_may_come_again():
    times = iter([0.0, 1.0, 31.0, 32.0])
    deadline = Deadline(32.0 + 15.0 + 1.2 * 30 - 0.1, now=lambda: next(times))
    assert [deadline.is_near(0.0) for _ in range(4)] == [False, False, False, True]
