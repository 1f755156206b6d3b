"""On a real SLURM: whatever ends a job, it goes on in its own directory, and ends where an undisturbed run ends."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support import wandb_log
from tests.support.callbacks import recorded
from tests.support.command import newest, start, wait_for
from tests.support.equality import Outcome, differences, outcome
from tests.support.forks import RANKS
from tests.support.paths import ROOT
from tests.support.slurm import Slurm
from tests.support.sweeps import (
    COMMAND,
    INTERVAL,
    ends_of,
    go,
    halt,
    has,
    job_of,
    report,
    run_of,
    starts,
    status,
    sweep,
)

from cairn.runs.directory import RunDirectory
from cairn.runs.ledger import Ledger
from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

SLURM = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"]
SIGNALLED = {
    4: ("batch:13", ["USR2"]),
    5: ("validation:20", ["USR2"]),
    6: ("replace:2", ["USR2"]),
    7: ("setup", ["USR2"]),
    8: ("batch:13", ["USR2", "TERM"]),
    9: ("batch:13", ["TERM"]),
}
"""Where a job is, and what it is sent there."""
VALUES = [*SIGNALLED, 10, 11]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Outcome]:
    """How undisturbed runs end, by their intervals: Hydra's own launcher, one after the other in one process."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    sweep(folder, VALUES).end()
    return {value: ends_of(run_of(folder, value)) for value in VALUES}


def assert_whole(folder: Path, whole: dict[int, Outcome], values: list[int]) -> None:
    for value in values:
        assert differences(whole[value], ends_of(run_of(folder, value))) == [], value


def test_a_sweep(cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder = tmp_path / "sweep"
    said = sweep(folder, [4, 5, 10], *SLURM, "logger=many", "hydra.launcher.name=small", **cluster.environment).end()
    assert "3 of 3 jobs are finished, 0 failed" in said
    array = {job_of(folder, value).partition("_")[0] for value in (4, 5, 10)}
    assert len(array) == 1, "one array"
    assert [job.state for job in cluster.jobs(array.pop())] == ["COMPLETED"] * 3
    groups = set()
    for value in (4, 5, 10):
        run = run_of(folder, value)
        expected = [(name, reasons) for name, reasons, *_ in whole[value].kept]
        assert [(item.name, item.reasons) for item in Catalog(run / "checkpoints").committed()] == expected
        assert len(list(run.glob("wandb/offline-run-*"))) == 1
        config = wandb_log.config(run)
        assert config["checkpoint"]["save_interval"] == value
        groups |= {
            record.run.run_group for record in wandb_log.records(run) if record.WhichOneof("record_type") == "run"
        }
        assert [item.job for item in starts(folder, value)] == [job_of(folder, value)]
    assert len(groups) == 1
    assert groups != {""}


def test_the_last_job_of_an_array_is_itself(cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder = tmp_path / "sweep"
    alone = "hydra.launcher.array_parallelism=1"  # SLURM says COMPLETED of the array when the last one is signalled
    more = ["logger=many", halt("10@batch:13")]
    process = sweep(folder, [4, 5, 10], *SLURM, alone, *more, **cluster.environment)
    assert wait_for(has(folder, [10], "at-batch:13"), process)
    cluster.wait(lambda: [cluster.state(job_of(folder, value)) for value in (4, 5)] == ["COMPLETED"] * 2)
    cluster.signal(job_of(folder, 10), "USR2")
    cluster.wait((run_of(folder, 10) / "got-SIGUSR2").exists)
    go(folder, 10, "batch:13")
    process.end()
    assert_whole(folder, whole, [4, 5, 10])
    assert [cluster.restarts(job_of(folder, value)) for value in (4, 5, 10)] == [0, 0, 1]
    assert [item.begins.total_batches for item in starts(folder, 10)] == [0, 14]
    run = run_of(folder, 10)
    assert len(list(run.glob("wandb/offline-run-*"))) == 2
    ids = {record.run.run_id for record in wandb_log.records(run) if record.WhichOneof("record_type") == "run"}
    assert len(ids) == 1, "one W&B run over both starts"
    assert_reported(folder, [4, 5, 10])


def assert_reported(folder: Path, values: list[int]) -> None:
    """The figures of `report` are those of the manifests and of the starts."""
    said = report(folder)
    assert set(said) == set(values)
    for value in values:
        kept, run = Catalog(run_of(folder, value) / "checkpoints").committed(), said[value]
        assert run["status"] == "finished"
        assert run["total_batches"] == kept[-1].position.total_batches
        assert run["held_bytes"] == sum(item.num_bytes for item in kept)
        ends = [item.before for item in starts(folder, value) if item.before]
        assert [(end["kind"], end["why"]) for end in run["ends"]] == [("announced", end.why) for end in ends]
        assert [(end["reached_batches"], end["resumed_batches"]) for end in run["ends"]] == [
            (item.before.total_batches, item.begins.total_batches) for item in starts(folder, value) if item.before
        ]


def test_signals_at_every_place(cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder, values = tmp_path / "sweep", list(SIGNALLED)
    places = [f"{value}@{place}" for value, (place, _) in SIGNALLED.items()]
    process = sweep(folder, values, *SLURM, halt(*places), **cluster.environment)
    for value, (place, names) in SIGNALLED.items():
        assert wait_for(has(folder, [value], f"at-{place}"), process)
        for name in names:
            cluster.signal(job_of(folder, value), name)
            if place.startswith(("batch", "validation")):  # setup ends at once, and replace is in another thread
                cluster.wait((run_of(folder, value) / f"got-SIG{name}").exists)
        go(folder, value, place)
    process.end()
    assert_whole(folder, whole, values)
    for value in values:
        assert cluster.restarts(job_of(folder, value)) == 1
        assert cluster.state(job_of(folder, value)) == "COMPLETED"
        _, again = starts(folder, value)
        assert again.before is not None
        assert (again.before.status, again.before.why[:3], again.lost_batches) == ("stopped", "SIG", 0), value
        assert "submitit requeues it" in (run_of(folder, value) / "train.log").read_text()


def test_preempted_and_then_killed_with_its_node(cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder = tmp_path / "sweep"
    process = sweep(folder, [10], *SLURM, halt("batch:13", "batch:36"), **cluster.environment)
    assert wait_for(has(folder, [10], "at-batch:13"), process)
    job = job_of(folder, 10)
    other = cluster.preempt()
    go(folder, 10, "batch:13")
    cluster.wait(lambda: cluster.state(job) == "PENDING")
    cluster.cancel(other)
    assert wait_for(has(folder, [10], "at-batch:36"), process)
    cluster.fail_node()
    for pid in cluster.pids(job):
        _kill(pid)
    cluster.wait(lambda: cluster.restarts(job) == 2)
    go(folder, 10, "batch:36")
    cluster.restore_node()
    process.end()
    assert_whole(folder, whole, [10])
    assert [(item.before.status, item.lost_batches) for item in starts(folder, 10) if item.before] == [
        ("stopped", 0),
        ("running", 6),
    ]
    (job_status,) = status(folder, **cluster.environment)[1].values()
    assert (job_status["num_restarts"], job_status["num_lost_batches"]) == (2, 6)


def test_two_tasks_of_one_job_are_requeued(cluster: Slurm, tmp_path: Path) -> None:
    ddp = ["trainer=ddp_sim", "trainer.max_epochs=2", "model=mlp"]
    start(tmp_path / "whole", *COMMAND, *ddp, f"{INTERVAL}=10", **{RANKS: "1"}).end()
    folder = tmp_path / "sweep"
    command = [*SLURM, *ddp, "hydra.launcher.tasks_per_node=2", halt("batch:13")]
    process = sweep(folder, [10], *command, **cluster.environment)
    assert wait_for(has(folder, [10], "at-batch:13"), process)
    cluster.signal(job_of(folder, 10), "USR2")
    cluster.wait((run_of(folder, 10) / "got-SIGUSR2").exists)
    go(folder, 10, "batch:13")
    process.end()
    run, whole = run_of(folder, 10), tmp_path / "whole"
    assert [item.lost_batches for item in starts(folder, 10)] == [0, 0]
    samples = [recorded(path, 0) + recorded(path, 1) for path in (whole, run)]
    assert differences(outcome(whole, samples[0]), outcome(run, samples[1])) == []


def test_an_operator_requeues(cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder = tmp_path / "sweep"
    process = sweep(folder, [10, 11], *SLURM, halt("batch:13"), **cluster.environment)
    assert wait_for(has(folder, [10, 11], "at-batch:13"), process)
    for value in (10, 11):
        cluster.requeue(job_of(folder, value))
        go(folder, value, "batch:13")
    process.end()
    assert_whole(folder, whole, [10, 11])
    assert [cluster.restarts(job_of(folder, value)) for value in (10, 11)] == [1, 1], "SLURM did it, and nobody else"


def test_a_job_that_fails_is_seen_and_not_started_again(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    fails = "+callbacks.fail._target_=tests.support.callbacks.FailAt"  # at step 13
    said = sweep(folder, [4], *SLURM, fails, "trainer.max_steps=12,20", **cluster.environment).end(expect=1)
    assert "1 of 2 jobs are finished, 1 failed" in said
    assert "RuntimeError: something broke" in said
    runs = {run: RunDirectory(run).record() for run in folder.iterdir() if (run / "run.json").is_file()}
    (failed,) = (run for run, record in runs.items() if record and "trainer.max_steps=20" in record.overrides)
    job = Ledger(folder).newest()[failed.name].job
    assert (cluster.state(job), cluster.restarts(job)) == ("FAILED", 0)
    log = (failed / "train.log").read_text()
    assert "Traceback" in log
    assert "RuntimeError: something broke" in log
    code, _ = status(folder, **cluster.environment)
    assert code == 1


def test_submitted_and_left_then_extended_and_killed(cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder, command = tmp_path / "sweep", [*SLURM, halt("batch:13")]
    sweep(folder, [4, 10], *command, "hydra.launcher.wait=false", **cluster.environment).end()
    cluster.wait(has(folder, [4, 10], "at-batch:13"))
    code, jobs = status(folder, **cluster.environment)
    assert code == 0
    assert {value: job["state"] for value, job in jobs.items()} == {4: "running", 10: "running"}
    assert jobs[10]["progress"]["total_batches"] == 13
    assert jobs[10]["last"]["name"] == newest(run_of(folder, 10)) == "epoch_000_batch_000010.ckpt"
    again = sweep(folder, [4, 10, 5], *command, **cluster.environment)
    assert wait_for(has(folder, [5], "at-batch:13"), again)
    again.kill()
    assert again.output.count("submitted as job") == 1
    for value in (4, 10, 5):
        go(folder, value, "batch:13")
    said = sweep(folder, [4, 10, 5], *command, **cluster.environment).end()
    assert "submitted as job" not in said
    assert_whole(folder, whole, [4, 10, 5])
    assert [len(starts(folder, value)) for value in (4, 10, 5)] == [1, 1, 1]
    assert len(cluster.jobs()) >= 3
    code, jobs = status(folder, **cluster.environment)
    assert (code, {job["state"] for job in jobs.values()}) == (0, {"finished"})


def script(cluster: Slurm, folder: Path, *overrides: str, text: Callable[[str], str] = str, **options: str) -> str:
    """Submit scripts/train.sbatch, as a user does who has no launcher."""
    place = folder / "train.sbatch"
    place.write_text(text((ROOT / "scripts" / "train.sbatch").read_text()))
    given = {"output": folder / "job-%j.log", "open_mode": "append", "cpus_per_task": "1", **options}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    where = [f"paths.log_dir={folder}", f"{INTERVAL}=10"]
    return cluster.sbatch([*flags, str(place), *COMMAND, *where, *overrides], cwd=ROOT)


def test_a_plain_batch_script(cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]) -> None:
    halts = halt("1@batch:13", "1@batch:26", "1@batch:36")
    array = script(cluster, tmp_path, halts.replace(INTERVAL, "oc.env:SLURM_ARRAY_TASK_ID"), array="0-1%1")
    job, first = f"{array}_1", f"{array}_0"
    run = tmp_path / "train" / "runs" / f"slurm-{job}"
    cluster.wait((run / "at-batch:13").exists)
    cluster.signal(job, "USR1")  # as before its time limit: the script requeues it
    cluster.wait((run / "got-SIGUSR1").exists)
    (run / "go-batch:13").touch()
    cluster.wait((run / "at-batch:26").exists)
    other = cluster.preempt()
    (run / "go-batch:26").touch()
    cluster.wait(lambda: cluster.state(job) == "PENDING")
    cluster.cancel(other)
    cluster.wait((run / "at-batch:36").exists)
    cluster.requeue(job)
    (run / "go-batch:36").touch()
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED", cluster.output(job)
    assert cluster.restarts(job) == 3
    assert differences(whole[10], ends_of(run)) == []
    assert (cluster.state(first), cluster.restarts(first)) == ("COMPLETED", 0)
    assert differences(whole[10], ends_of(run.with_name(f"slurm-{first}"))) == []
    assert {path.name for path in run.parent.iterdir()} == {run.name, f"slurm-{first}"}
    assert "its batch script requeues it" in (run / "train.log").read_text()


def test_the_time_limit_with_a_signal_before_it_and_without_any(
    cluster: Slurm, tmp_path: Path, whole: dict[int, Outcome]
) -> None:
    """Both at the same time, because both have to wait for a minute to be over."""
    slow = "+callbacks.slow={_target_: tests.support.callbacks.Slow, seconds: 1}"
    unsignalled = lambda text: "\n".join(line for line in text.splitlines() if "--signal" not in line)  # noqa: E731
    job = script(cluster, tmp_path, slow, text=unsignalled, time="1")
    folder = tmp_path / "sweep"
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5"]
    sweep(folder, [10], *SLURM, *limits, slow, **cluster.environment).end()
    assert_whole(folder, whole, [10])
    ends = [item.before for item in starts(folder, 10) if item.before]
    assert ends
    assert {(end.status, end.why) for end in ends} <= {("stopped", "SIGUSR2"), ("stopped", "job_time_limit")}
    assert cluster.restarts(job_of(folder, 10)) == len(ends)

    run = tmp_path / "train" / "runs" / f"slurm-{job}"
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED", (tmp_path / f"job-{job}.log").read_text()
    assert differences(whole[10], ends_of(run)) == []
    assert cluster.restarts(job) > 0
    assert "job_time_limit: the run is saved here" in (run / "train.log").read_text()


def test_jobs_import_the_clone_that_they_were_submitted_from(cluster: Slurm, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for name in ("src", "configs", "engine/src", "engine/tests"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "train.py").write_text((ROOT / "train.py").read_text())
    told = clone / "engine" / "src" / "cairn" / "hydra" / "start.py"
    told.write_text(told.read_text().replace("Run directory: %s", "Run directory of the clone: %s"))
    folder = tmp_path / "sweep"
    there = {"script": clone / "train.py", "cwd": tmp_path, "fresh": True}
    sweep(folder, [10], *SLURM, "trainer.max_epochs=1", **there, **cluster.environment).end()
    assert "Run directory of the clone" in (run_of(folder, 10) / "train.log").read_text()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
