"""A run directory records its run, and a run is found by its directory or as the latest one."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime

import pytest
from tests.support.disk import Disk

from cairn.errors import ResumeError
from cairn.run.directory import RunDirectory, RunRecord, below, find


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "logs" / "train" / "runs" / "first")


def begin(run, overrides=("seed=1",), config="seed: 1\n"):
    return run.start("train", overrides, config)


def test_there_is_no_record_before_the_first_start(run):
    assert run.record() is None
    run.end("finished")
    assert not run.path.exists()


def test_a_start_makes_the_directory_and_records_the_run(run):
    record = begin(run)
    assert run.record() == record
    assert (record.task_name, record.overrides, record.status) == ("train", ("seed=1",), "running")
    assert re.fullmatch("[0-9a-f]{8}", record.id)
    assert datetime.fromisoformat(record.created).tzinfo is not None
    assert run.config_file.read_text() == "seed: 1\n"


def test_a_second_start_keeps_the_run_and_takes_its_new_overrides(run):
    first = begin(run)
    run.end("stopped", "SIGTERM")
    second = begin(run, ("seed=1", "trainer.max_epochs=5"), "seed: 1\nmore: true\n")
    assert second == dataclasses.replace(first, overrides=("seed=1", "trainer.max_epochs=5"))
    assert run.record() == second
    assert run.config_file.read_text() == "seed: 1\nmore: true\n"


def test_each_run_has_its_own_id(tmp_path):
    assert len({begin(RunDirectory(tmp_path / str(number))).id for number in range(20)}) == 20


@pytest.mark.parametrize("ending", [("finished", "", 0.5), ("stopped", "max_time", None), ("failed", "it broke", None)])
def test_an_end_adds_to_the_record(run, ending):
    first = begin(run)
    run.end(*ending)
    status, why, result = ending
    assert run.record() == dataclasses.replace(first, status=status, why=why, result=result)


def test_a_record_is_json_with_every_field(run):
    begin(run)
    fields = json.loads(run.record_file.read_text())
    assert set(fields) == {field.name for field in dataclasses.fields(RunRecord)}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"id": "a"}', '{"id": "a", "task_name": "b", "overrides": [], "x": 1}', "\xff"],
)
def test_a_damaged_record_is_named(run, text):
    begin(run)
    run.record_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ResumeError, match=r"run\.json is not the record of a run"):
        run.record()


def test_a_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(tmp_path.relative_to(tmp_path) / "run")
    monkeypatch.chdir("/")
    begin(run)
    assert (tmp_path / "run" / "run.json").is_file()


def test_files_appear_under_their_names_when_they_are_complete_and_synced(run, monkeypatch):
    run.path.mkdir(parents=True)
    disk = Disk(run.path, monkeypatch)
    begin(run)
    assert disk.steps == [
        "fsync .",
        "fsync .config.yaml.tmp",
        "replace .config.yaml.tmp config.yaml",
        "fsync .",
        "fsync .run.json.tmp",
        "replace .run.json.tmp run.json",
        "fsync .",
    ]


def test_only_the_process_that_started_a_run_records_its_end(run):
    record = begin(run)
    RunDirectory(run.path).end("failed", "another start was refused")
    assert run.record() == record


HOLD = "import sys; from cairn.run.directory import *; r = RunDirectory(Path(sys.argv[1])); r.lock(); print(); input()"


@contextmanager
def training_in(path):
    """Another process that locks the directory until it is killed; yields its first line of output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command, pipe = [sys.executable, "-c", HOLD, str(path)], subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=environment, text=True
    ) as process:
        try:
            yield process.stdout.readline()
        finally:
            process.kill()


def test_two_processes_cannot_train_in_one_directory(run):
    with training_in(run.path) as first, training_in(run.path) as second:
        assert first == "\n"
        assert second.startswith("Traceback")
    with training_in(run.path) as third:
        assert third == "\n", "however the first one ended"


# Which run


def test_a_directory_is_found(run, tmp_path):
    begin(run)
    assert find(str(run.path), tmp_path, "any").path == run.path


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ResumeError, match=r"resume=.*gone: there is no such directory"):
        find(str(tmp_path / "gone"), tmp_path, "train")


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(ResumeError, match=r"is not a run directory: it has no run\.json\.$"):
        find(str(tmp_path), tmp_path, "train")


def test_the_run_above_a_named_directory_is_suggested(run, tmp_path):
    begin(run)
    (run.path / "checkpoints").mkdir()
    with pytest.raises(ResumeError, match=rf"did you mean {re.escape(str(run.path))}\?$"):
        find(str(run.path / "checkpoints"), tmp_path, "train")


@pytest.mark.parametrize("newest", ["runs/a", "runs/b", "multiruns/day/seed=1", "multiruns/day/lr=1/seed=2"])
def test_latest_is_the_run_that_was_active_last(tmp_path, newest):
    names = ["runs/a", "runs/b", "multiruns/day/seed=1", "multiruns/day/lr=1/seed=2"]
    for age, name in enumerate([newest, *(other for other in names if other != newest)]):
        own = RunDirectory(tmp_path / "train" / name)
        begin(own)
        os.utime(own.record_file, (1000 - age, 1000 - age))
    begin(RunDirectory(tmp_path / "other" / "runs" / "newer"))
    assert find("latest", tmp_path, "train").path == tmp_path / "train" / newest


def test_latest_without_any_run_is_an_error(tmp_path):
    with pytest.raises(ResumeError, match="resume=latest: there is no run of the task 'train'"):
        find("latest", tmp_path, "train")


def test_the_run_json_of_wandb_is_not_a_run(run, tmp_path):
    begin(run)
    (run.path / "wandb").mkdir()
    (run.path / "wandb" / "run.json").write_text("{}")
    assert [found.path for found in below(tmp_path)] == [run.path]
    assert find("latest", tmp_path / "logs", "train").path == run.path
