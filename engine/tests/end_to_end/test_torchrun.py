"""A run whose processes torchrun restarts ends like an undisturbed one, in one run directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, Process, start
from tests.support.equality import differences, outcome
from tests.support.forks import RANKS, TORCHRUN

from cairn.run import attempts
from cairn.run.directory import RunDirectory

pytestmark = pytest.mark.slow

COMMAND = [
    *QUICK,
    "trainer=ddp_sim",
    RECORD,
    "model=mlp",
    "trainer.max_epochs=2",
    "checkpoint.save_interval=4",
    "checkpoint.when_busy=wait",
    "checkpoint.sharded=true",
    "test=false",
]
ENDS = ["0:0:6:SIGKILL", "1:1:9:SIGTERM"]
"""Where each attempt ends: rank 0 is killed, then rank 1 is asked to stop, after which rank 0 exits with code 143."""


def test_a_run_that_torchrun_restarts_twice_is_exact(tmp_path: Path) -> None:
    whole, logs = tmp_path / "whole", tmp_path / "logs"
    start(whole, *COMMAND, **{RANKS: "1"}).end()
    ends = f"+callbacks.end={{_target_: tests.support.callbacks.EndAt, _args_: {ENDS}}}"
    launcher = [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=2", "--rdzv-id=mine"]
    options = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--monitor-interval=0.1"]
    command = [*launcher, *options, "train.py", *COMMAND, ends, f"paths.log_dir={logs}"]
    output = Process(command, fresh=False, **{RANKS: "6"}).end()
    (run,) = (logs / "train" / "runs").iterdir()
    assert run.name == "torchrun-mine"
    assert json.loads((run / "run.json").read_text())["status"] == "finished", output
    begun = [item.begins.total_batches for item in attempts.read(RunDirectory(run))]
    assert begun == [0, 4, 10], "each restart goes on from the newest checkpoint"
    samples = [recorded(path, 0) + recorded(path, 1) for path in (whole, run)]
    assert differences(outcome(whole, samples[0]), outcome(run, samples[1])) == []
