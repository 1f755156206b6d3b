"""The number of starts of a run includes those that ended before training began, which only the scheduler counts."""

import json

import pytest

from cairn.run import attempts
from cairn.run.directory import RunDirectory

SUBMITTED = {"12_0"}


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        ([], 0),
        ([("", None)], 1),
        ([("", None), ("", None)], 2),
        ([("12_0", 0)], 1),
        ([("12_0", 0), ("12_0", 1)], 2),
        ([("12_0", 0), ("12_0", 2)], 3),  # one restart was killed in its imports
        ([("12_0", 1)], 2),  # the first start was
        ([("12_0", 2), ("12_0", 3), ("12_0", 6)], 7),
        ([("99", 3)], 1),  # a batch script may have trained another run before
        ([("99", 3), ("99", 5)], 3),
        ([("99", 0), ("99", 0)], 2),  # a batch script may start the same run twice
        ([("12_0", 1), ("13_0", 1)], 3),  # resubmitted as another job, which is not in the ledger
        ([("12_0", None), ("12_0", 2)], 3),  # the first one was noted by an older version
    ],
)
def test_starts_that_no_attempt_has_recorded_are_counted(tmp_path, noted, expected):
    run = RunDirectory(tmp_path)
    run.starts_file.touch()
    for job, restarts in noted:
        attempts.note(run, None, None, job, restarts)
    assert attempts.num_starts(attempts.read(run), SUBMITTED) == expected


def test_attempts_of_older_versions_are_read(tmp_path):
    run = RunDirectory(tmp_path)
    attempts.note(run, None, None, "12_0", 1)
    fields = json.loads(run.starts_file.read_text())
    del fields["job_restarts"]
    run.starts_file.write_text(json.dumps(fields) + "\n")
    (attempt,) = attempts.read(run)
    assert (attempt.job, attempt.job_restarts) == ("12_0", None)
