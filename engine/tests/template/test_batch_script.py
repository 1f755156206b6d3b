"""The batch script requeues its own job and no other, a limited number of times; SLURM's commands are stubs here."""

import os
import subprocess

import pytest
from tests.support.paths import ROOT

ARRAY = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}
"""Environment of the last job of an array; its id is that of the array."""


@pytest.fixture
def script(tmp_path):
    """Return a function that runs the script with stubs, and returns its exit code and the commands it called."""

    def call(code, scontrol="echo JobState=RUNNING", **env):
        calls = tmp_path / "calls"
        stubs = {"srun": f"exit {code}", "scontrol": scontrol, "sleep": ":"}
        for name, lines in stubs.items():
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n{lines}\n')
            path.chmod(0o755)
        env = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "17", **env}
        env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(["bash", ROOT / "scripts" / "train.sbatch", "a=b"], env=env, capture_output=True)
        assert not done.stderr, done.stderr
        return done.returncode, [line for line in calls.read_text().splitlines() if "sleep" not in line]

    return call


@pytest.mark.parametrize("code", [75, 138, 140, 143])
@pytest.mark.parametrize(("env", "job"), [({}, "17"), (ARRAY, "17_2")])
def test_a_job_that_was_saved_is_requeued(script, code, env, job):
    ended, (train, *asked) = script(code, **env)
    assert ended == code
    assert train.endswith(f"/runs/slurm-{job} a=b")
    assert asked == [f"scontrol --oneliner show job {job}", f"scontrol requeue {job}"]


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "CANCELLED"])
def test_a_job_that_slurm_requeued_or_cancelled_is_left_alone(script, state):
    assert "scontrol requeue 17" not in script(138, f"echo JobState={state}")[1]


@pytest.mark.parametrize("code", [0, 1, 130])
def test_a_finished_or_failed_job_is_not_requeued(script, code):
    ended, calls = script(code)
    assert (ended, len(calls)) == (code, 1)


def test_a_busy_controller_is_asked_again(script):
    _, calls = script(138, "[ $(grep -c scontrol calls) -gt 2 ] && echo JobState=RUNNING")
    assert calls[-2:] == ["scontrol --oneliner show job 17", "scontrol requeue 17"]
    assert len(calls) == 5


@pytest.mark.parametrize(("code", "expected"), [(138, True), (75, True), (143, False)])
def test_without_an_answer_a_job_is_requeued_except_after_sigterm(script, code, expected):
    _, calls = script(code, '[ "$1" = requeue ]')
    assert ("scontrol requeue 17" in calls) is expected


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"SLURM_RESTART_COUNT": "99"}, True),
        ({"SLURM_RESTART_COUNT": "100"}, False),
        ({"SLURM_RESTART_COUNT": "3", "CAIRN_MAX_RESTARTS": "3"}, False),
        ({"CAIRN_MAX_RESTARTS": "0"}, False),
    ],
)
def test_the_number_of_requeues_is_limited(script, env, expected):
    ended, calls = script(138, **env)
    assert (ended, "scontrol requeue 17" in calls) == (138, expected)
