"""A library user's SLURM job is requeued as it would have been without a `Checkpointer`."""

import signal

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment
from tests.lightning.test_library import At, fit, made


@pytest.fixture
def job(monkeypatch, tmp_path):
    """The commands that `scontrol` gets; it takes them all."""
    calls = tmp_path / "calls"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    task = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1"}
    for name, value in {**task, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)
    return lambda: calls.read_text().splitlines() if calls.exists() else []


def stopped_by(number, tmp_path, **environment):
    checkpoints = made(tmp_path)
    plugins = [SLURMEnvironment(**environment)] if environment else []
    with pytest.raises(SystemExit) as caught:
        fit(checkpoints, tmp_path, At(number), plugins=plugins)
    assert (caught.value.code, checkpoints.newest.reasons) == (128 + number, ("interval",))


def test_at_lightnings_requeue_signal_the_job_is_requeued_once_it_is_saved(tmp_path, job):
    stopped_by(signal.SIGUSR1, tmp_path, auto_requeue=True)
    assert job()[-1] == "requeue 7"


def test_another_requeue_signal(tmp_path, job):
    stopped_by(signal.SIGHUP, tmp_path, requeue_signal=signal.SIGHUP)
    assert job()[-1] == "requeue 7"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_other_signals_do_not_requeue(tmp_path, job, number):
    stopped_by(number, tmp_path, auto_requeue=True)
    assert not any(line.startswith("requeue") for line in job())


def test_a_user_who_wants_no_requeue_gets_none(tmp_path, job):
    stopped_by(signal.SIGUSR1, tmp_path, auto_requeue=False)
    assert not any(line.startswith("requeue") for line in job())


def test_in_an_array_only_this_task_is_requeued(tmp_path, job, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    stopped_by(signal.SIGUSR1, tmp_path, auto_requeue=True)
    assert job()[-1] == "requeue 5_2"


def test_without_slurm_nothing_is_requeued(tmp_path):
    stopped_by(signal.SIGUSR1, tmp_path)
