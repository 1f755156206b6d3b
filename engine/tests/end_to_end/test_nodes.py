"""A run on two nodes of a real SLURM loses one of them, and goes on with the other."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from tests.support import slurm_guard
from tests.support.command import QUICK, newest
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.slurm import Slurm

from cairn.run import attempts
from cairn.run.directory import RunDirectory
from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

AUTO = ["trainer=ddp_sim", "trainer.num_nodes=auto", "trainer.devices=auto", "data.global_batch_size=120"]
SHORT = ["model=mlp", "trainer.max_epochs=2", "checkpoint.save_interval=4", "checkpoint.keep_last=-1", "test=false"]
HALT = "+callbacks.halt={_target_: tests.support.callbacks.Halt, _args_: [batch:13]}"


def test_a_requeued_job_goes_on_with_a_node_less(tmp_path: Path) -> None:
    Slurm.require()
    words = [sys.executable, "train.py", *QUICK, *AUTO, *SHORT, HALT, f"paths.log_dir={tmp_path}"]
    script = f"srun --nodes=$SLURM_NNODES --ntasks=$SLURM_NNODES {shlex.join(words)}"
    env = {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}  # no node has this name
    with Slurm(num_nodes=2, KillWait=1) as cluster:
        job = cluster.submit(script, env, nodes=2, ntasks_per_node=1, chdir=ROOT, open_mode="append")
        run = tmp_path / "train" / "runs" / f"slurm-{job}-0"
        cluster.wait((run / "at-batch:13").exists)
        assert cluster.job(job).fields["NumNodes"] == "2"
        lost = cluster.pids(job)
        cluster.fail_node("node1")
        slurm_guard.kill(lost)  # a lost node ends without a signal
        (run / "go-batch:13").touch()
        cluster.shrink(job, num_nodes=1)
        cluster.wait(lambda: cluster.job(job).ended)
        output = cluster.output(job)
        assert cluster.state(job) == "COMPLETED", output
        assert (cluster.restarts(job), cluster.job(job).fields["NumNodes"]) == (1, "1"), output
    assert "Each global batch of 120 samples is 2 processes x 1 batch of 60" in output
    assert "Each global batch of 120 samples is 2 batches of 60" in output
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert RunDirectory(run).record().status == "finished"
    assert [item.begins.total_batches for item in attempts.read(RunDirectory(run))] == [0, 12]
    saved = Catalog(run / "checkpoints").committed()
    assert newest(run) == "epoch_001_batch_000011.ckpt"
    assert [item.position.total_batches for item in saved if "interval" in item.reasons] == [4, 8, 12, 16, 20]
    assert [item.position.samples for item in saved[:2]] == [4 * 120, 8 * 120]
