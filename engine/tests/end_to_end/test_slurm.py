"""On a real SLURM, a job that was stopped resumes in its own directory and ends exactly like an undisturbed run.

Each function in `SCENARIOS` is one test. They mostly wait, so they run two at a time, see `Scenarios`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from tests.support import search_runs, wandb_log
from tests.support.callbacks import recorded
from tests.support.command import newest, start, wait_for
from tests.support.equality import Outcome, differences, outcome
from tests.support.forks import RANKS
from tests.support.paths import ROOT
from tests.support.scenarios import Scenarios
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

from cairn.account import progress
from cairn.run.directory import RunDirectory
from cairn.run.ledger import Ledger
from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

SLURM = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"]
SIGNALLED = {
    4: [("replace:2", ["USR2"]), ("batch:13", ["USR2"]), ("batch:46", ["TERM"])],
    5: [("setup", ["USR2"]), ("validation:20", ["USR2"]), ("batch:33", ["USR2", "TERM"])],
}
"""By save interval: where a job halts, one start after the other, and the signals it receives there."""
VALUES = [4, 5, 10, 11]


_ONE_AT_A_TIME = threading.Lock()


def undisturbed(tmp_path: Path) -> dict[int, Outcome]:
    """Return the outcomes of undisturbed runs by save interval; Hydra's own launcher makes them once."""
    with _ONE_AT_A_TIME:
        return _undisturbed(tmp_path.parent / f"undisturbed-{os.getpid()}")


@cache
def _undisturbed(folder: Path) -> dict[int, Outcome]:
    sweep(folder, VALUES).end()
    return {value: ends_of(run_of(folder, value)) for value in VALUES}


def assert_exact(tmp_path: Path, values: list[int]) -> None:
    """Assert that the runs of a sweep end exactly like undisturbed ones."""
    for value in values:
        assert differences(undisturbed(tmp_path)[value], ends_of(run_of(tmp_path / "sweep", value))) == [], value


def a_sweep_whose_last_job_is_interrupted(cluster: Slurm, tmp_path: Path) -> None:
    """The last job of an array has the job id of the array: it must be queried, signalled and requeued by its task."""
    folder, values = tmp_path / "sweep", [4, 5, 10]
    # One job at a time: SLURM reports the array as COMPLETED when the last one is signalled.
    more = ["hydra.launcher.array_parallelism=1", "hydra.launcher.name=small", "logger=many", halt("10@batch:13")]
    process = sweep(folder, values, *SLURM, *more, **cluster.environment)
    assert wait_for(has(folder, [10], "at-batch:13"), process)
    cluster.wait(lambda: [cluster.state(job_of(folder, value)) for value in (4, 5)] == ["COMPLETED"] * 2)
    cluster.signal(job_of(folder, 10), "USR2")
    cluster.wait((run_of(folder, 10) / "got-SIGUSR2").exists)
    go(folder, 10, "batch:13")
    assert "3 of 3 jobs are finished, 0 failed" in process.end()
    assert_exact(tmp_path, values)
    assert [cluster.restarts(job_of(folder, value)) for value in values] == [0, 0, 1]
    assert [item.begins.total_batches for item in starts(folder, 10)] == [0, 14]
    array = {job_of(folder, value).partition("_")[0] for value in values}
    assert len(array) == 1, "one array"
    assert [job.state for job in cluster.jobs(array.pop())] == ["COMPLETED"] * 3
    assert_saved_and_logged(tmp_path, values)
    assert_reported(folder, values)


def assert_saved_and_logged(tmp_path: Path, values: list[int]) -> None:
    """Assert that each run keeps the expected checkpoints, and has an offline run of W&B per start with one id."""
    folder, groups = tmp_path / "sweep", set()
    for value in values:
        run, tried = run_of(folder, value), starts(folder, value)
        expected = [(name, reasons) for name, reasons, *_ in undisturbed(tmp_path)[value].kept]
        assert [(item.name, item.reasons) for item in Catalog(run / "checkpoints").committed()] == expected
        assert {item.job for item in tried} == {job_of(folder, value)}
        assert len(list(run.glob("wandb/offline-run-*"))) == len(tried)
        assert wandb_log.config(run)["checkpoint"]["save_interval"] == value
        records = [record.run for record in wandb_log.records(run) if record.WhichOneof("record_type") == "run"]
        assert len({record.run_id for record in records}) == 1, "one W&B run over all starts"
        groups |= {record.run_group for record in records}
    assert len(groups) == 1
    assert groups != {""}


def assert_reported(folder: Path, values: list[int]) -> None:
    """Assert that `report` shows the figures of the manifests and of the recorded starts."""
    reported = report(folder)
    assert set(reported) == set(values)
    for value in values:
        kept, run = Catalog(run_of(folder, value) / "checkpoints").committed(), reported[value]
        assert run["status"] == "finished"
        assert run["total_batches"] == kept[-1].position.total_batches
        assert run["held_bytes"] == sum(item.num_bytes for item in kept)
        ends = [item.before for item in starts(folder, value) if item.before]
        assert [(end["kind"], end["why"]) for end in run["ends"]] == [("announced", end.why) for end in ends]
        assert [(end["reached_batches"], end["resumed_batches"]) for end in run["ends"]] == [
            (item.before.total_batches, item.begins.total_batches) for item in starts(folder, value) if item.before
        ]


def signals_at_every_place(cluster: Slurm, tmp_path: Path) -> None:
    folder, values = tmp_path / "sweep", list(SIGNALLED)
    places = [f"{value}@{place}" for value, stops in SIGNALLED.items() for place, _ in stops]
    process = sweep(folder, values, *SLURM, halt(*places), **cluster.environment)
    for stops in zip(*SIGNALLED.values(), strict=True):
        for value, (place, names) in zip(values, stops, strict=True):
            assert wait_for(has(folder, [value], f"at-{place}"), process)
            for name in names:
                got = run_of(folder, value) / f"got-SIG{name}"
                cluster.signal(job_of(folder, value), name)
                cluster.wait(got.exists)  # otherwise it may come at the next place, to the next signal
                got.unlink()
            go(folder, value, place)
    process.end()
    assert_exact(tmp_path, values)
    for value in values:
        assert cluster.restarts(job_of(folder, value)) == 3
        assert cluster.state(job_of(folder, value)) == "COMPLETED"
        ends = [(again.before.status, again.before.why[:3], again.lost_batches) for again in starts(folder, value)[1:]]
        assert ends == [("stopped", "SIG", 0)] * 3, value
        assert (run_of(folder, value) / "train.log").read_text().count("submitit requeues it") == 4, (
            "each start says it"
        )


def preempted_and_then_killed_with_its_node(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    process = sweep(folder, [10], *SLURM, halt("batch:13", "batch:36"), **cluster.environment)
    assert wait_for(has(folder, [10], "at-batch:13"), process)
    job = job_of(folder, 10)
    other = cluster.preempt()
    go(folder, 10, "batch:13")
    cluster.wait(lambda: cluster.state(job) == "PENDING")
    cluster.cancel(other)
    assert wait_for(has(folder, [10], "at-batch:36"), process)
    written = run_of(folder, 10) / "progress.json"  # once a second
    cluster.wait(lambda: (found := progress.read(written)) is not None and found.total_batches == 36)
    cluster.fail_node()
    for pid in cluster.pids(job):
        _kill(pid)
    cluster.wait(lambda: cluster.restarts(job) == 2)
    go(folder, 10, "batch:36")
    cluster.restore_node()
    process.end()
    assert_exact(tmp_path, [10])
    assert [(item.before.status, item.lost_batches) for item in starts(folder, 10) if item.before] == [
        ("stopped", 0),
        ("running", 6),
    ]
    (job_status,) = status(folder, **cluster.environment)[1].values()
    assert (job_status["num_restarts"], job_status["num_lost_batches"]) == (2, 6)


def two_tasks_of_one_job_are_requeued(cluster: Slurm, tmp_path: Path) -> None:
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


def an_operator_requeues(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    process = sweep(folder, [10, 11], *SLURM, halt("batch:13"), **cluster.environment)
    assert wait_for(has(folder, [10, 11], "at-batch:13"), process)
    for value in (10, 11):
        cluster.requeue(job_of(folder, value))
        go(folder, value, "batch:13")
    job = job_of(folder, 11)
    cluster.wait(lambda: cluster.state(job) == "RUNNING")
    cluster.requeue(job)  # now it imports torch: this start leaves no record
    process.end()
    assert_exact(tmp_path, [10, 11])
    assert [cluster.restarts(job_of(folder, value)) for value in (10, 11)] == [1, 2], "requeued only by the operator"
    jobs = status(folder, **cluster.environment)[1]
    assert {value: jobs[value]["num_restarts"] for value in (10, 11)} == {10: 1, 11: 2}


def a_job_that_fails_is_seen_and_not_started_again(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    fails = "+callbacks.fail._target_=tests.support.callbacks.FailAt"  # at step 13
    output = sweep(folder, [4], *SLURM, fails, "trainer.max_steps=12,20", **cluster.environment).end(expect=1)
    assert "1 of 2 jobs are finished, 1 failed" in output
    assert "RuntimeError: something broke" in output
    runs = {run: RunDirectory(run).record() for run in folder.iterdir() if (run / "run.json").is_file()}
    (failed,) = (run for run, record in runs.items() if record and "trainer.max_steps=20" in record.overrides)
    job = Ledger(folder).newest()[failed.name].job
    assert (cluster.state(job), cluster.restarts(job)) == ("FAILED", 0)
    log = (failed / "train.log").read_text()
    assert "Traceback" in log
    assert "RuntimeError: something broke" in log
    code, _ = status(folder, **cluster.environment)
    assert code == 1


def submitted_and_left_then_extended_and_killed(cluster: Slurm, tmp_path: Path) -> None:
    folder, command = tmp_path / "sweep", [*SLURM, halt("batch:13")]
    sweep(folder, [4, 10], *command, "hydra.launcher.wait=false", **cluster.environment).end()
    cluster.wait(has(folder, [4, 10], "at-batch:13"))
    cluster.wait(lambda: json.loads((run_of(folder, 10) / "progress.json").read_text())["total_batches"] == 13)
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
    output = sweep(folder, [4, 10, 5], *command, **cluster.environment).end()
    assert "submitted as job" not in output
    assert_exact(tmp_path, [4, 10, 5])
    assert [len(starts(folder, value)) for value in (4, 10, 5)] == [1, 1, 1]
    assert len(cluster.jobs()) >= 3
    code, jobs = status(folder, **cluster.environment)
    assert (code, {job["state"] for job in jobs.values()}) == (0, {"finished"})


def script(cluster: Slurm, folder: Path, *overrides: str, text: Callable[[str], str] = str, **options: str) -> str:
    """Submit scripts/train.sbatch, as a user without the launcher does."""
    file = folder / "train.sbatch"
    file.write_text(text((ROOT / "scripts" / "train.sbatch").read_text()))
    given = {"output": folder / "job-%j.log", "open_mode": "append", "cpus_per_task": "1", **options}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    where = [f"paths.log_dir={folder}", f"{INTERVAL}=10"]
    return cluster.sbatch([*flags, str(file), *COMMAND, *where, *overrides], cwd=ROOT)


def a_plain_batch_script(cluster: Slurm, tmp_path: Path) -> None:
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
    assert differences(undisturbed(tmp_path)[10], ends_of(run)) == []
    assert (cluster.state(first), cluster.restarts(first)) == ("COMPLETED", 0)
    assert differences(undisturbed(tmp_path)[10], ends_of(run.with_name(f"slurm-{first}"))) == []
    assert {path.name for path in run.parent.iterdir()} == {run.name, f"slurm-{first}"}
    assert "its batch script requeues it" in (run / "train.log").read_text()


def a_time_limit_with_a_signal_before_it_and_without_any(cluster: Slurm, tmp_path: Path) -> None:
    """Both jobs run at the same time, since each has to wait until a minute is over."""
    slow = "+callbacks.slow={_target_: tests.support.callbacks.Slow, seconds: 1}"
    unsignalled = lambda text: "\n".join(line for line in text.splitlines() if "--signal" not in line)  # noqa: E731
    job = script(cluster, tmp_path, slow, text=unsignalled, time="1")
    folder = tmp_path / "sweep"
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5"]
    sweep(folder, [10], *SLURM, *limits, slow, **cluster.environment).end()
    assert_exact(tmp_path, [10])
    ends = [item.before for item in starts(folder, 10) if item.before]
    assert ends
    assert {(end.status, end.why) for end in ends} <= {("stopped", "SIGUSR2"), ("stopped", "job_time_limit")}
    # On a busy machine the minute may be over before a start has imported torch: it is counted, but has no record.
    restarts = cluster.restarts(job_of(folder, 10))
    assert restarts >= len(ends)
    assert status(folder, **cluster.environment)[1][10]["num_restarts"] == restarts

    run = tmp_path / "train" / "runs" / f"slurm-{job}"
    cluster.wait(lambda: cluster.job(job).ended)
    assert cluster.state(job) == "COMPLETED", (tmp_path / f"job-{job}.log").read_text()
    assert differences(undisturbed(tmp_path)[10], ends_of(run)) == []
    assert cluster.restarts(job) > 0
    assert "job_time_limit: " in (run / "train.log").read_text()


def jobs_import_the_clone_that_they_were_submitted_from(cluster: Slurm, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for name in ("src", "configs", "engine/src", "engine/tests"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "train.py").write_text((ROOT / "train.py").read_text())
    for module in (clone / "engine" / "src" / "cairn" / "hydra").rglob("*.py"):
        module.write_text(module.read_text().replace("Run directory: %s", "Run directory of the clone: %s"))
    folder = tmp_path / "sweep"
    there = {"script": clone / "train.py", "cwd": tmp_path, "fresh": True}
    sweep(folder, [10], *SLURM, "trainer.max_epochs=1", **there, **cluster.environment).end()
    assert "Run directory of the clone" in (run_of(folder, 10) / "train.log").read_text()


def a_search_whose_job_is_requeued(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    process = search_runs.search(f"hydra.sweep.dir={folder}", *SLURM, halts=True, **cluster.environment)
    assert wait_for(lambda: len(search_runs.halted(folder)) == 2, process)
    one, other = search_runs.halted(folder)
    cluster.signal(Ledger(folder).newest()[one.name].job, "USR2")
    cluster.wait((one / "got-SIGUSR2").exists)
    process.kill()  # the command, and not its jobs
    search_runs.go(one)
    search_runs.go(other)
    output = search_runs.search(f"hydra.sweep.dir={folder}", *SLURM, halts=True, **cluster.environment).end()
    assert output.count("submitted as job") <= 1, "the last rung; the jobs of the second one are waited for"
    found, winner = search_runs.finished(folder)
    search_runs.assert_nothing_is_trained_twice(folder, found)
    search_runs.assert_as_undisturbed(folder / winner.directory, winner, tmp_path / "whole")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


SCENARIOS = {
    function.__name__: function
    for function in (
        a_time_limit_with_a_signal_before_it_and_without_any,
        two_tasks_of_one_job_are_requeued,
        signals_at_every_place,
        a_plain_batch_script,
        preempted_and_then_killed_with_its_node,
        a_sweep_whose_last_job_is_interrupted,
        submitted_and_left_then_extended_and_killed,
        an_operator_requeues,
        a_search_whose_job_is_requeued,
        a_job_that_fails_is_seen_and_not_started_again,
        jobs_import_the_clone_that_they_were_submitted_from,
    )
}
"""In the order of their starts: those that wait longest come first."""


@pytest.fixture(scope="module")
def scenarios(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    Slurm.require()
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    wanted = {item.callspec.params["name"] for item in request.session.items if item.path == request.path}
    with Scenarios({name: SCENARIOS[name] for name in SCENARIOS if name in wanted}, shared / "slurm") as scenarios:
        yield scenarios


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_on_slurm_ends_like_an_undisturbed_one(name: str, scenarios: Scenarios) -> None:
    scenarios.check(name)
