"""A sweep as local processes: it can be repeated, its jobs resume after signals, and failures are reported."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.command import PATIENT_S, wait_for
from tests.support.equality import Outcome, differences
from tests.support.sweeps import ends_of, go, halt, has, job_of, run_of, starts, status, sweep

from cairn.account import progress
from cairn.run.directory import RunDirectory
from cairn.run.ledger import Ledger, states
from cairn.store import claim
from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

LOCAL = "hydra/launcher=submitit_local"
TOGETHER = "hydra.launcher.array_parallelism=2"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Outcome]:
    """Outcomes of undisturbed runs by save interval, from Hydra's own launcher."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    sweep(folder, [4, 10]).end()
    return {value: ends_of(run_of(folder, value)) for value in (4, 10)}


def test_a_repeated_sweep_runs_only_the_missing_jobs(tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder = tmp_path / "sweep"
    output = sweep(folder, [4, 10], LOCAL).end()
    assert output.count("submitted as job") == 2
    assert "2 of 2 jobs are finished" in output
    for value, expected in whole.items():
        assert differences(expected, ends_of(run_of(folder, value))) == []
    output = sweep(folder, [4, 10, 7], LOCAL).end()
    assert (output.count("already finished"), output.count("submitted as job")) == (2, 1)
    code, jobs = status(folder)
    assert code == 0
    assert {value: (job["state"], job["share"], job["num_restarts"]) for value, job in jobs.items()} == dict.fromkeys(
        (4, 7, 10), ("finished", 1.0, 0)
    )
    assert len(starts(folder, 4)) == 1


def test_a_failed_job_is_reported_and_the_others_continue(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    fails = "+callbacks.fail._target_=tests.support.callbacks.FailAt"  # at step 13
    one = "hydra.launcher.array_parallelism=1"  # the job that fails is the first
    output = sweep(folder, [4], fails, "trainer.max_steps=20,12", LOCAL, one).end(expect=1)
    assert "1 of 2 jobs are finished, 1 failed" in output
    assert "RuntimeError: something broke" in output
    runs = {run: RunDirectory(run).record() for run in folder.iterdir() if (run / "run.json").is_file()}
    assert sorted(record.status for record in runs.values()) == ["failed", "finished"]
    (failed,) = (run for run, record in runs.items() if "trainer.max_steps=20" in record.overrides)
    log = (failed / "train.log").read_text()
    assert "Traceback" in log
    assert "RuntimeError: something broke" in log
    code, _ = status(folder)
    assert code == 1


def test_two_jobs_with_one_checkpoint_directory_lose_nothing(tmp_path: Path) -> None:
    """Both start at the same time: one gets the directory, and the other one is refused by name."""
    folder, shared = tmp_path / "sweep", tmp_path / "shared"
    output = sweep(folder, [4], "seed=0,1", f"checkpoint.dirpath={shared}", LOCAL).end(expect=1)
    assert "1 of 2 jobs are finished, 1 failed" in output
    assert re.search(r"dirpath|directory=.*/shared (belongs to another run|is in use)", output)
    (owner,) = [run for run in folder.iterdir() if (run / "run.json").is_file()]
    assert {item.run for item in Catalog(shared).committed()} == {RunDirectory(owner).record().id}
    assert claim.read(shared).name == str(owner)


def test_a_job_that_receives_a_signal_is_saved_and_requeued(tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder = tmp_path / "sweep"
    places = {4: ("setup", "replace:2"), 10: ("batch:13", "validation:40")}
    halts = halt(*(f"{value}@{place}" for value, them in places.items() for place in them))
    short = "hydra.launcher.timeout_min=10"  # submitit counts any signal as a timeout
    process = sweep(folder, [4, 10], LOCAL, TOGETHER, short, halts)
    for turn in range(2):
        for value, them in places.items():
            assert wait_for(has(folder, [value], f"at-{them[turn]}"), process)
            (pid,) = training(folder, value)
            os.kill(pid, signal.SIGUSR2)
            go(folder, value, them[turn])
    process.end()
    for value, expected in whole.items():
        assert differences(expected, ends_of(run_of(folder, value))) == []
        tried = starts(folder, value)
        assert [item.lost_batches for item in tried] == [0, 0, 0]
        assert [item.before and (item.before.status, item.before.why) for item in tried[1:]] == [
            ("stopped", "SIGUSR2")
        ] * 2
    # A batch that has begun is completed before the run stops.
    assert [item.begins.total_batches for item in starts(folder, 10)] == [0, 14, 40]
    assert [item.begins.total_batches for item in starts(folder, 4)][:2] == [0, 0]


def test_a_sweep_whose_launcher_was_killed_can_be_repeated(tmp_path: Path, whole: dict[int, Outcome]) -> None:
    folder = tmp_path / "sweep"
    command = [LOCAL, TOGETHER, halt("batch:13")]
    sweep(folder, [4, 10], *command, "hydra.launcher.wait=false").end()
    code, jobs = status(folder)
    assert code == 0, jobs
    entries = Ledger(folder).newest().values()
    assert len(states(entries)) == 2
    again = sweep(folder, [4, 10], *command)
    assert wait_for(has(folder, [4, 10], "at-batch:13"), again)
    wait_until(lambda: reached(folder, 10) == 13)  # written once a second
    (pid,) = training(folder, 10)
    os.kill(pid, signal.SIGKILL)  # one of its jobs dies, and then the launcher
    again.kill()
    wait_until(lambda: len(states(Ledger(folder).newest().values())) == 1)
    assert {value: job["state"] for value, job in status(folder)[1].items()} == {4: "running", 10: "dead"}
    for value in (4, 10):
        go(folder, value, "batch:13")
    output = sweep(folder, [4, 10], *command).end()
    assert output.count("submitted as job") == 1, output
    for value, expected in whole.items():
        assert differences(expected, ends_of(run_of(folder, value))) == []
    lost = {value: [item.lost_batches for item in starts(folder, value)] for value in (4, 10)}
    assert lost == {4: [0], 10: [0, 3]}
    assert status(folder)[1][10]["num_lost_batches"] == 3


def test_jobs_that_wait_are_stopped_with_the_command_and_run_when_it_is_repeated(
    tmp_path: Path, whole: dict[int, Outcome]
) -> None:
    folder = tmp_path / "sweep"
    command = [LOCAL, halt("batch:13"), "hydra.launcher.array_parallelism=1"]
    process = sweep(folder, [4, 10], *command)
    assert wait_for(has(folder, [4], "at-batch:13"), process)
    assert {value: job["state"] for value, job in status(folder)[1].items()} == {4: "running", 10: "waiting"}
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: len(states(Ledger(folder).newest().values())) == 1)  # the job that waits has ended
    go(folder, 4, "batch:13")
    output = process.end(expect=143)
    assert "At most 1 job runs at a time (hydra.launcher.array_parallelism)." in output
    wait_until(lambda: not states(Ledger(folder).newest().values()))
    assert not has(folder, [10], "run.json")()
    again = sweep(folder, [4, 10], *command)
    assert wait_for(has(folder, [10], "at-batch:13"), again)
    assert starts(folder, 4)[-1].before.why == "SIGTERM"
    assert RunDirectory(run_of(folder, 4)).record().status == "finished", "one at a time"
    go(folder, 10, "batch:13")
    assert again.end().count("submitted as job") == 2
    for value, expected in whole.items():
        assert differences(expected, ends_of(run_of(folder, value))) == []


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def reached(folder: Path, value: int) -> int:
    found = progress.read(run_of(folder, value) / "progress.json")
    return found.total_batches if found else 0


def training(folder: Path, value: int) -> list[int]:
    """Return the process that trains one job of the sweep."""
    job = job_of(folder, value)
    children = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    return [int(child) for child in children]
