"""What SLURM's commands print is understood, and what they refuse is a sentence; the commands here are stand-ins."""

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
    """Put a command in place that runs these lines of shell."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)

    def make(name, lines):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{lines}\n')
        path.chmod(0o755)
        return lambda: (tmp_path / "asked").read_text().splitlines()

    return make


def test_a_job(command):
    asked = command("scontrol", f"echo '{JOB}'")
    ends_at = datetime(2026, 3, 1, 12).timestamp()
    assert slurm.job_state("17") == slurm.JobState("RUNNING", 3, ends_at)
    assert asked() == ["--oneliner show job 17"]


def test_a_job_without_an_end(command):
    command("scontrol", "echo 'JobId=17 JobState=PENDING Restarts=0 EndTime=Unknown'")
    assert slurm.job_state("17") == slurm.JobState("PENDING", 0, None)


def test_a_question_about_an_array_is_refused(command):
    command("scontrol", f"printf '{JOB}JobId=16 ArrayJobId=15 ArrayTaskId=1 JobState=COMPLETED\\n'")
    with pytest.raises(slurm.SlurmError, match=r"one job and told of 2 \(17, 16\)"):
        slurm.job_state("15")


def test_the_queue(command):
    command("squeue", "printf '12 RUNNING\\n15_0 PENDING\\n15_1 COMPLETING\\n\\n'")
    assert slurm.queued("me") == {"12": "RUNNING", "15_0": "PENDING", "15_1": "COMPLETING"}


def test_a_controller_that_is_busy_is_asked_again(command, tmp_path):
    asked = command("scontrol", f"[ $(wc -l < {tmp_path}/asked) -gt 2 ] && echo '{JOB}' || exit 1")
    assert slurm.job_state("17").state == "RUNNING"
    assert len(asked()) == 3


def test_what_it_refuses_is_said(command):
    asked = command("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match=r"scontrol --oneliner show job 17.*Invalid job id"):
        slurm.job_state("17")
    assert len(asked()) == 1, "it will not know the job later either"


def test_one_that_never_answers_is_said(command):
    asked = command("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match="Unable to contact"):
        slurm.queued("me")
    assert len(asked()) == 4


def test_no_slurm_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm.SlurmError, match="scontrol is not installed here"):
        slurm.job_state("17")
