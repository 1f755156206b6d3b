"""The output of SLURM's commands is parsed, and a refusal becomes a clear error; the commands here are stand-ins."""

import os
from datetime import datetime

import pytest

from cairn.jobs import slurm

JOB = (
    "JobId=17 ArrayJobId=15 ArrayTaskId=2 JobName=train UserId=me(1) JobState=RUNNING Reason=None Requeue=1 "
    "Restarts=3 RunTime=00:00:10 TimeLimit=01:00:00 EndTime=2026-03-01T12:00:00 Command=/x/y=z.sh\n"
)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Returns a function that installs a command with these lines of shell, and returns a reader of its calls."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)

    def make(name, lines):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{lines}\n')
        path.chmod(0o755)
        return lambda: (tmp_path / "asked").read_text().splitlines()

    return make


def test_the_state_of_a_job(command):
    calls = command("scontrol", f"echo '{JOB}'")
    ends_at = datetime(2026, 3, 1, 12).timestamp()
    assert slurm.job_state("17") == slurm.JobState("RUNNING", 3, ends_at)
    assert calls() == ["--oneliner show job 17"]


def test_a_job_without_a_time_limit(command):
    command("scontrol", "echo 'JobId=17 JobState=PENDING Restarts=0 EndTime=Unknown'")
    assert slurm.job_state("17") == slurm.JobState("PENDING", 0, None)


def test_an_array_is_not_one_job(command):
    command("scontrol", f"printf '{JOB}JobId=16 ArrayJobId=15 ArrayTaskId=1 JobState=COMPLETED\\n'")
    with pytest.raises(slurm.SlurmError, match=r"expected one job, got 2 \(17, 16\)"):
        slurm.job_state("15")


def test_the_states_of_all_queued_jobs(command):
    command("squeue", "printf '12 RUNNING\\n15_0 PENDING\\n15_1 COMPLETING\\n\\n'")
    assert slurm.queued("me") == {"12": "RUNNING", "15_0": "PENDING", "15_1": "COMPLETING"}


def test_a_busy_controller_is_queried_again(command, tmp_path):
    calls = command("scontrol", f"[ $(wc -l < {tmp_path}/asked) -gt 2 ] && echo '{JOB}' || exit 1")
    assert slurm.job_state("17").state == "RUNNING"
    assert len(calls()) == 3


def test_a_refusal_is_an_error_at_once(command):
    calls = command("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match=r"scontrol --oneliner show job 17.*Invalid job id"):
        slurm.job_state("17")
    assert len(calls()) == 1, "a retry would not help"


def test_a_controller_that_never_answers_is_an_error(command):
    calls = command("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match="Unable to contact"):
        slurm.queued("me")
    assert len(calls()) == 4


def test_a_machine_without_slurm_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm.SlurmError, match="scontrol is not installed on this machine"):
        slurm.job_state("17")
