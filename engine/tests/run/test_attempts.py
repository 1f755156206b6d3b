"""Each attempt is recorded with how far the attempt before it had come, so that the cost of a kill is known."""

import json
import sys
from dataclasses import asdict

import pytest
from tests.support.values import at, saved

from cairn.account.progress import Progress
from cairn.run import attempts
from cairn.run.attempts import Attempt, ExitStatus, StartingPoint
from cairn.run.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.start("task", (), "checkpoint: {}\n")
    return directory


LATER = 4e9
"""Later than all attempts, in seconds since 1970."""


def reach(run, batches, elapsed_s, when=LATER):
    reached = Progress(0, batches, batches, batches, elapsed_s, when)
    run.progress_file.write_text(json.dumps(asdict(reached)))


def test_the_first_attempt_has_nothing_before_it(run):
    attempts.note(run, None, None, "")
    (first,) = attempts.read(run)
    assert (first.begins, first.before, first.job) == (StartingPoint(), None, "")
    assert (first.lost_s, first.lost_batches) == (0.0, 0)


def test_a_kill_costs_the_batches_after_the_checkpoint(run):
    attempts.note(run, None, None, "12_0")
    reach(run, 35, 7.5)
    attempts.note(run, run.record(), saved(position=at(30, total=30), elapsed_s=6.0), "12_0")
    _, second = attempts.read(run)
    assert second.before == ExitStatus("running", "", 35, 7.5, LATER)
    assert second.begins.total_batches == 30
    assert (second.lost_batches, second.lost_s) == (5, 1.5)


def test_a_stop_with_a_checkpoint_costs_nothing(run):
    attempts.note(run, None, None, "")
    reach(run, 35, 7.5)
    run.end("stopped", "SIGTERM")
    attempts.note(run, run.record(), saved(position=at(35, total=35), elapsed_s=7.5), "")
    second = attempts.read(run)[1]
    assert second.before is not None
    assert (second.before.status, second.before.why, second.lost_batches) == ("stopped", "SIGTERM", 0)


def test_an_attempt_that_ended_before_its_first_batch_loses_nothing(run):
    attempts.note(run, None, None, "")
    attempts.note(run, run.record(), None, "")
    second = attempts.read(run)[1]
    assert second.before is not None
    assert (second.before.total_batches, second.lost_batches) == (0, 0)


def test_lost_batches_are_not_counted_again_after_an_attempt_without_a_batch(run):
    attempts.note(run, None, None, "")
    reach(run, 35, 7.5, when=1000.0)
    newest = saved(position=at(30, total=30), elapsed_s=6.0)
    file = run.starts_file
    file.write_text(file.read_text().replace('{"at": "20', '{"at": "19'))  # the first start was long before
    for _ in range(2):
        attempts.note(run, run.record(), newest, "")
    assert [item.lost_batches for item in attempts.read(run)] == [0, 5, 0]


def test_a_run_without_a_record_of_attempts_is_an_error(run):
    with pytest.raises(OSError, match=r"starts\.jsonl"):
        attempts.read(run)


@pytest.mark.parametrize("line", ['{"at": "x", "ho', "[]", "null", "{}", json.dumps({"at": "x", "begins": 1})])
def test_a_damaged_line_is_skipped(run, line):
    attempts.note(run, None, None, "")
    with open(run.starts_file, "a") as file:
        file.write(line + "\n")
    assert [type(item) for item in attempts.read(run)] == [Attempt]


def test_a_disk_that_refuses_is_a_warning(run, caplog):
    run.starts_file.mkdir()
    attempts.note(run, None, None, "")
    assert f"Could not write {run.starts_file}" in caplog.text


def test_the_first_attempt_of_a_process_knows_its_age_and_the_next_one_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "_noted", set())
    ages = [attempts.note(RunDirectory(tmp_path / name), None, None, "").process_age_s for name in "ab"]
    assert ages[1] is None
    if sys.platform == "linux":
        assert 0 < ages[0] < 1e6


@pytest.mark.parametrize(("status", "known"), [("stopped", True), ("hung", True), ("running", False)])
def test_the_recorded_end_of_an_attempt_is_known_to_the_next_one(tmp_path, status, known):
    directory = RunDirectory(tmp_path)
    directory.start("t", (), "checkpoint: {}\n")
    attempts.note(directory, None, None, "")
    directory.end(status)
    before = attempts.note(directory, directory.record(), None, "").before
    assert before.ended == (directory.record_file.stat().st_mtime if known else None)
    assert attempts.read(directory)[-1].before == before
