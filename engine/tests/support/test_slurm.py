"""The private cluster treats jobs as real ones do, and nothing of it outlives its context."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import sacct, slurm_guard
from tests.support.paths import ENGINE
from tests.support.slurm import Slurm

STUBBORN = "trap '' TERM; while true; do sleep 1; done"
"""Ends only by a kill."""
ESCAPED = "setsid --fork sleep 600"
"""Leaves a process behind that is not a descendant of the job."""
SLEEPS = "srun sleep 600"
"""Runs for a long time, in a job step."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


def start(slurm: Slurm, script: str, **options: object) -> str:
    """Submit, and wait until it runs, and has printed `ready` if it does so."""
    job = slurm.submit(script, **options)
    slurm.wait(lambda: slurm.state(job) == "RUNNING" and slurm.pids(job))
    if "echo ready" in script:
        slurm.wait(lambda: "ready" in slurm.output(job))
    return job


@pytest.mark.slow
def test_a_job_completes(cluster):
    job = cluster.submit('echo "job $SLURM_JOB_ID says $WORD"', env={"WORD": "hello"}, job_name="two words")
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED"
    assert cluster.output(job) == f"job {job} says hello\n"
    assert cluster.restarts(job) == 0


@pytest.mark.slow
def test_a_command_is_submitted_word_by_word(cluster, tmp_path):
    job = cluster.submit([sys.executable, "-c", "import sys; sys.exit(sys.argv[1] != 'two words')", "two words"])
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED"


@pytest.mark.slow
def test_a_job_that_fails_is_failed(cluster):
    job = cluster.submit("exit 3")
    cluster.wait(lambda: cluster.job(job).ended)
    assert (cluster.state(job), cluster.job(job).fields["ExitCode"]) == ("FAILED", "3:0")


@pytest.mark.slow
def test_the_tasks_of_an_array_are_jobs(cluster):
    array = cluster.submit("exit $SLURM_ARRAY_TASK_ID", array="0-1")
    cluster.wait(lambda: all(job.ended for job in cluster.jobs(array)))
    assert {job.id: job.state for job in cluster.jobs(array)} == {f"{array}_0": "COMPLETED", f"{array}_1": "FAILED"}
    assert cluster.state(f"{array}_1") == "FAILED"


@pytest.mark.slow
def test_a_requeued_job_starts_again_under_its_id(cluster):
    job = start(cluster, 'echo "start ${SLURM_RESTART_COUNT:-0}"; [ -n "$SLURM_RESTART_COUNT" ] || sleep 600')
    cluster.requeue(job)
    assert cluster.restarts(job) == 1
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED"
    assert [line for line in cluster.output(job).splitlines() if "start" in line][-1] == "start 1"


@pytest.mark.slow
def test_a_job_of_high_priority_preempts_one_of_low_priority(cluster):
    low = start(cluster, SLEEPS)
    high = cluster.preempt()
    cluster.wait(lambda: cluster.state(high) == "RUNNING")
    assert (cluster.state(low), cluster.restarts(low)) == ("PENDING", 1)
    cluster.cancel(high)
    assert cluster.state(high) == "CANCELLED"


@pytest.mark.slow
def test_a_step_with_a_grace_time_is_signalled_first(cluster, tmp_path):
    # A file, since srun sometimes loses the last output of a step. SLURM signals every process of a step, repeatedly
    # and one after the other: bash makes the file itself, since the next signal would end a `touch`, and it does not
    # depend on a child, which may be signalled first.
    asked = tmp_path / "asked"
    step = f"srun bash -c \"trap ': > {asked}; exit 0' TERM; echo ready; while true; do sleep 0.1; done\""
    job = start(cluster, step, partition="grace")
    cluster.preempt()
    cluster.wait(lambda: cluster.job(job).ended)
    assert (cluster.state(job), cluster.restarts(job)) == ("COMPLETED", 0)
    assert asked.exists()


@pytest.mark.slow
def test_jobs_of_a_lost_node_go_back_to_the_queue(cluster):
    job = start(cluster, SLEEPS)
    cluster.fail_node()
    assert cluster.restarts(job) == 1
    assert "DOWN" in cluster.node_state()
    cluster.restore_node()
    cluster.restore_node()  # does nothing
    assert "DOWN" not in cluster.node_state()


@pytest.mark.slow
def test_a_signal_reaches_the_processes_of_a_step_and_not_the_script(cluster, tmp_path):
    got = tmp_path / "got"
    step = f"srun bash -c \"trap ': > {got}; exit 0' USR2; echo ready; while true; do sleep 0.1; done\""
    job = start(cluster, f"trap 'echo script' USR2; {step}")
    cluster.signal(job, "USR2")
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED"
    assert got.exists()
    assert "script" not in cluster.output(job)


@pytest.mark.slow
def test_a_signal_for_the_script_reaches_it(cluster):
    job = start(cluster, "trap 'echo script; exit 0' USR2; echo ready; while true; do sleep 0.1; done")
    cluster.signal(job, "USR2", batch=True)
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED"


@pytest.mark.slow
def test_gpus_are_assigned(cluster):
    job = cluster.submit('echo "gpus $CUDA_VISIBLE_DEVICES"', gres="gpu:2")
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.output(job) == "gpus 0,1\n"


@pytest.mark.slow
def test_after_a_reset_nothing_runs_and_the_node_is_idle(cluster):
    stubborn, escaped = start(cluster, STUBBORN), start(cluster, f"{ESCAPED}; sleep 600")
    pending = cluster.submit("true", begin="now+1hour")
    pids = [*cluster.pids(stubborn), *cluster.pids(escaped)]
    cluster.fail_node()
    cluster.reset()
    assert all(cluster.job(job).ended for job in (stubborn, escaped, pending))
    assert not set(pids) & {pid for pid, _ in slurm_guard.members(cluster.conf)}
    assert cluster.node_state() == "IDLE"


# --- sacct ---


def ask_sacct(slurm: Slurm, *words: str) -> subprocess.CompletedProcess[str]:
    """Run sacct in the cluster's environment."""
    env = {**os.environ, **slurm.environment}
    return subprocess.run(["sacct", *words], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_sacct_lists_jobs_and_arrays(cluster):
    job = start(cluster, "sleep 600")
    array = cluster.submit("true", array="0-3%1", begin="now+1hour")
    done = ask_sacct(cluster, "-o", "JobID,State,NodeList", "--parsable2", "-j", job, "-j", array, "-j", "99999")
    assert done.stdout.splitlines() == [
        "JobID|State|NodeList",
        f"{job}|RUNNING|localhost",
        f"{array}_[0-3%1]|PENDING|None assigned",
    ]
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sacct_lists_the_tasks_of_an_array(cluster):
    array = cluster.submit("true", array="0-1")
    cluster.wait(lambda: all(job.ended for job in cluster.jobs(array)))
    done = ask_sacct(cluster, "-n", "-P", "-X", "--format=JobID,State,ExitCode,Restarts", "-j", f"{array}_1,{array}_0")
    assert done.stdout.splitlines() == [f"{array}_1|COMPLETED|0:0|0", f"{array}_0|COMPLETED|0:0|0"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [["-o", "JobID,MaxRSS"], ["--starttime=now"]], ids=["field", "option"])
def test_sacct_refuses_unknown_options_and_fields(cluster, more):
    done = ask_sacct(cluster, "--parsable2", "-j", "1", *more)
    assert done.returncode != 0
    assert "sacct: error: " in done.stderr


def test_words_of_a_command_are_not_parsed_as_fields():
    said = "JobId=7 JobName=a b JobState=RUNNING Reason=None Command=train.py JobState=X Nice=1\n\n"
    (fields,) = sacct.parse(said)
    assert (fields["JobName"], fields["JobState"]) == ("a b", "RUNNING")


# --- start and end ---


def test_missing_programs_are_named(monkeypatch):
    monkeypatch.setattr("tests.support.slurm.PROGRAMS", ("sh", "no-such-daemon"))
    if sys.platform == "linux":
        assert Slurm.why_not() == "no-such-daemon not found (Debian: apt-get install slurm-wlm munge)"


@pytest.mark.slow
def test_nothing_is_left_at_the_end(slurm):
    with Slurm(num_cpus=1) as other:
        assert other.conf != slurm.conf
        start(other, f"{ESCAPED}; {STUBBORN}")
    assert not list(slurm_guard.members(other.conf))
    assert not other.directory.exists()
    assert slurm.node_state() == "IDLE"


@pytest.mark.slow
def test_nothing_is_left_when_the_owner_is_killed(slurm):
    program = [
        "import time",
        "from tests.support.slurm import Slurm",
        "with Slurm() as slurm:",
        f"    job = slurm.submit({ESCAPED + '; ' + STUBBORN!r})",
        "    slurm.wait(lambda: slurm.pids(job))",
        "    print(slurm.conf, flush=True)",
        "    time.sleep(600)",
    ]
    owner = subprocess.Popen([sys.executable, "-c", "\n".join(program)], cwd=ENGINE, stdout=subprocess.PIPE, text=True)
    try:
        conf = Path(owner.stdout.readline().strip())
        assert list(slurm_guard.members(conf))
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    eventually(lambda: not conf.parent.exists() and not list(slurm_guard.members(conf)))


@pytest.mark.slow
def test_a_daemon_that_does_not_start_is_an_error_with_its_log(slurm):
    other = Slurm(SelectType="select/none_such")
    with pytest.raises(AssertionError, match="slurmctld has ended") as caught, other:
        pass
    assert "select/none_such" in "".join(caught.value.__notes__)
    assert not list(slurm_guard.members(other.conf))
    assert not other.directory.exists()
