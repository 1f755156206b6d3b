"""The run directory has one name in all processes of a run, and after a restart."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from cairn.errors import ConfigError
from cairn.jobs.run_name import run_name

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}


def test_a_run_in_one_process_is_named_by_its_start():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run_name({}))
    assert run_name({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"})[:2] == "20"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "mine"}, "torchrun-mine"),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "a/b c"}, "torchrun-a_b_c"),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "3"}, "torchrun-x"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_ID": "3"}, "slurm-7-3"),
    ],
)
def test_the_launcher_names_a_run_of_several_processes(environ, expected):
    assert run_name(environ) == expected


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_a_single_task_of_srun_finds_the_directory_that_more_tasks_have_left(tmp_path):
    step = tmp_path / "slurmstepd"
    step.write_text("#!/bin/sh\nread line\n")
    step.chmod(0o755)
    with subprocess.Popen([step], stdin=subprocess.PIPE) as process:
        environ = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "3"}
        while Path(f"/proc/{process.pid}/comm").read_text() != "slurmstepd\n":
            time.sleep(0.001)
        assert run_name(environ, process.pid) == "slurm-7-3"
        assert run_name(environ, os.getpid())[:2] == "20", "a script in the task may start several runs"
        assert run_name({}, process.pid)[:2] == "20"
        process.communicate(b"\n")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_an_agent_without_a_name_is_its_own():
    environ = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}
    found = run_name(environ, os.getpid())
    assert re.fullmatch(rf"torchrun-{os.getpid()}-\d+", found)
    assert run_name(environ, os.getpid()) == found


def test_several_nodes_without_a_name_are_refused():
    with pytest.raises(ConfigError, match=r"--rdzv-id=NAME.*hydra\.run\.dir=DIR"):
        run_name({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "2"})
