"""The status of a job needs its files and its scheduler: by either alone a dead job looks alive."""

import json
import time
from dataclasses import asdict

import pytest
from tests.support.made_runs import run_directory

from cairn import bounded_yaml
from cairn.account.progress import Progress
from cairn.errors import ResumeError
from cairn.jobs import slurm
from cairn.run import attempts, config_file, status
from cairn.run.directory import RunDirectory
from cairn.run.ledger import Ledger, SubmittedJob
from cairn.store import manifest


def reach(run, at=0.0, batches=500):
    reached = Progress(0, batches, batches, batches, 1.0, at, 1000)
    (run / "progress.json").write_text(json.dumps(asdict(reached)))


@pytest.fixture
def queue(monkeypatch):
    """Jobs in the queue of SLURM, by id."""
    jobs = {}
    monkeypatch.setattr(slurm, "queued", lambda: jobs)
    return jobs


@pytest.mark.parametrize(
    ("record", "queued", "heard", "expected"),
    [
        ("finished", None, 0, "finished"),
        ("finished", "COMPLETING", 0, "completing"),
        ("failed", None, 0, "failed"),
        ("stopped", None, 0, "stopped"),
        ("stopped", "PENDING", 0, "waiting"),
        ("running", "RUNNING", 0, "running"),
        ("running", "PENDING", 0, "waiting"),
        ("running", None, 0, "dead"),
        ("running", None, "now", "dead"),
    ],
)
def test_the_record_and_the_scheduler_together_give_the_state(tmp_path, queue, record, queued, heard, expected):
    run = run_directory(tmp_path, 50, status=record)
    reach(run, time.time() if heard == "now" else 0.0)
    Ledger(tmp_path).add([SubmittedJob(run.name, "slurm", "12_0")])
    attempts.note(RunDirectory(run), None, None, "12_0")
    if queued:
        queue["12_0"] = queued
    (job,), trouble = status.look(tmp_path)
    assert (job.name, job.state, job.job, trouble) == (run.name, expected, "12_0", "")


def test_a_job_that_never_began_is_waiting_or_failed(tmp_path, queue):
    Ledger(tmp_path).add([SubmittedJob("a", "slurm", "12_0"), SubmittedJob("b", "slurm", "12_1")])
    queue["12_1"] = "PENDING"
    assert [(job.name, job.state) for job in status.look(tmp_path)[0]] == [("a", "failed"), ("b", "waiting")]


def test_a_test_that_no_run_owns_is_tested(tmp_path, queue):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "evaluation.json").write_text("{}")
    assert [(job.name, job.state) for job in status.look(tmp_path)[0]] == [("a", "tested")]
    Ledger(tmp_path).add([SubmittedJob("a", "slurm", "12_0"), SubmittedJob("b", "slurm", "12_1")])
    assert [job.state for job in status.look(tmp_path)[0]] == ["tested", "failed"]
    assert [job.state for job in status.look(tmp_path / "a")[0]] == ["tested"]


def test_the_share_of_the_training_that_is_done(tmp_path):
    run = run_directory(tmp_path, 50)
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "trainer: {max_epochs: 2, max_steps: -1}\n")
    reach(run)
    (job,), _ = status.look(tmp_path)
    assert (job.share, job.last.position.total_batches) == (0.25, 1000)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [("max_epochs: 2, max_steps: 600", 500 / 600), ("max_epochs: -1", None), ("max_epochs: null, max_steps: 500", 1.0)],
)
def test_the_limit_that_comes_first_counts(tmp_path, limits, expected):
    run = run_directory(tmp_path, 50)
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + f"trainer: {{{limits}}}\n")
    reach(run)
    assert status.look(tmp_path)[0][0].share == expected


def test_a_run_is_a_sweep_of_one(tmp_path):
    run = run_directory(tmp_path, 50)
    (run / "wandb").mkdir()
    (run / "wandb" / "run.json").write_text("{}")  # W&B's
    assert [job.name for job in status.look(run)[0]] == ["."]


def test_a_scheduler_that_does_not_answer_is_reported(tmp_path, monkeypatch):
    def ask():
        raise slurm.SlurmError("no controller")

    monkeypatch.setattr(slurm, "queued", ask)
    run = run_directory(tmp_path, 50)
    Ledger(tmp_path).add([SubmittedJob(run.name, "slurm", "12_0")])
    (job,), trouble = status.look(tmp_path)
    assert (job.state, trouble) == ("finished", "no controller")


def test_a_job_without_files_is_unknown_while_the_scheduler_does_not_answer(tmp_path, monkeypatch):
    def ask():
        raise slurm.SlurmError("no controller")

    monkeypatch.setattr(slurm, "queued", ask)
    run = run_directory(tmp_path, 50, status="running")
    reach(run, time.time())
    Ledger(tmp_path).add([SubmittedJob(run.name, "slurm", "12_0"), SubmittedJob("waits", "slurm", "12_1")])
    assert {job.name: job.state for job in status.look(tmp_path)[0]} == {run.name: "running", "waits": "unknown"}


def test_a_run_that_was_resumed_by_hand_does_not_count_as_its_dead_job(tmp_path, queue):
    run = run_directory(tmp_path, 50, status="running")
    reach(run, time.time())
    Ledger(tmp_path).add([SubmittedJob(run.name, "slurm", "12_0")])
    attempts.note(RunDirectory(run), None, None, "")
    assert [job.state for job in status.look(tmp_path)[0]] == ["running"]


def test_a_job_that_died_before_it_began_is_dead(tmp_path, queue):
    run = run_directory(tmp_path, 50, status="running")
    reach(run, time.time())
    Ledger(tmp_path).add([SubmittedJob(run.name, "slurm", "11"), SubmittedJob(run.name, "slurm", "12")])
    attempts.note(RunDirectory(run), None, None, "11")
    assert [(job.state, job.job) for job in status.look(tmp_path)[0]] == [("dead", "12")]


def test_a_directory_without_runs_is_an_error(tmp_path):
    with pytest.raises(ResumeError, match="holds no runs"):
        status.look(tmp_path)


def test_a_job_with_a_damaged_record_has_failed(tmp_path):
    run = run_directory(tmp_path, 50)
    (run / "run.json").write_text("{")
    assert [job.state for job in status.look(tmp_path)[0]] == ["failed"]


def test_of_each_run_one_manifest_is_read_and_equal_parts_of_configurations_once(tmp_path, queue, monkeypatch):
    runs = [run_directory(tmp_path, interval) for interval in (50, 100, 250)]
    for run in runs:
        with open(run / "config.yaml", "a") as file:
            file.write("trainer:\n  max_epochs: 2\nmodel:\n  never: read\n")
    num_read, parsed = [], []
    load, parse = manifest.load, bounded_yaml.parse
    monkeypatch.setattr(manifest, "load", lambda text: num_read.append(1) or load(text))
    monkeypatch.setattr(bounded_yaml, "parse", lambda text, *loader: parsed.append(text) or parse(text, *loader))
    config_file._parse_part.cache_clear()
    jobs, _ = status.look(tmp_path)
    assert sorted(job.last.position.batch for job in jobs) == [1000, 1000, 1000]
    assert [job.share for job in jobs] == [None] * 3, "its length is not known"
    assert len(num_read) == 3
    assert sum(text.startswith("trainer:") for text in parsed) == 1
    assert not any("never" in text for text in parsed)
