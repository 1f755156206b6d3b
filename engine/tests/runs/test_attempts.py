"""Each start of a run is written down, with what the one before it had reached, and so what a kill has cost."""

import json

import pytest
from tests.support.values import at, saved

from cairn.account.progress import Progress, ProgressFile
from cairn.runs import attempts
from cairn.runs.attempts import Attempt, End, Point
from cairn.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.start("task", (), "checkpoint: {}\n")
    return directory


LATER = 4e9
"""After all starts, in seconds since 1970."""


def reach(run, batches, elapsed_s, when=LATER):
    file = ProgressFile(run.progress_file)
    file.write(Progress(0, batches, batches, batches, elapsed_s, when))
    file.close()


def test_the_first_start(run):
    attempts.note(run, None, None, "")
    (first,) = attempts.read(run)
    assert (first.begins, first.before, first.job) == (Point(), None, "")
    assert (first.lost_s, first.lost_batches) == (0.0, 0)


def test_what_a_kill_has_cost(run):
    attempts.note(run, None, None, "12_0")
    reach(run, 35, 7.5)
    attempts.note(run, run.record(), saved(position=at(30, total=30), elapsed_s=6.0), "12_0")
    _, second = attempts.read(run)
    assert second.before == End("running", "", 35, 7.5, LATER)
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


def test_one_that_ended_before_its_first_batch(run):
    attempts.note(run, None, None, "")
    attempts.note(run, run.record(), None, "")
    second = attempts.read(run)[1]
    assert second.before is not None
    assert (second.before.total_batches, second.lost_batches) == (0, 0)


def test_what_was_lost_is_not_lost_again_by_an_attempt_that_ends_before_its_first_batch(run):
    attempts.note(run, None, None, "")
    reach(run, 35, 7.5, when=1000.0)
    newest = saved(position=at(30, total=30), elapsed_s=6.0)
    file = run.starts_file
    file.write_text(file.read_text().replace('{"at": "20', '{"at": "19'))  # the first start was long before
    for _ in range(2):
        attempts.note(run, run.record(), newest, "")
    assert [item.lost_batches for item in attempts.read(run)] == [0, 5, 0]


def test_nobody_has_kept_a_record(run):
    with pytest.raises(OSError, match=r"starts\.jsonl"):
        attempts.read(run)


@pytest.mark.parametrize("line", ['{"at": "x", "ho', "[]", "null", "{}", json.dumps({"at": "x", "begins": 1})])
def test_a_line_that_was_cut_off_is_left_out(run, line):
    attempts.note(run, None, None, "")
    with open(run.starts_file, "a") as file:
        file.write(line + "\n")
    assert [type(item) for item in attempts.read(run)] == [Attempt]


def test_a_disk_that_refuses_stops_nothing(run, caplog):
    run.starts_file.mkdir()
    attempts.note(run, None, None, "")
    assert "starts.jsonl cannot be written" in caplog.text
