"""`cairn status`: the states of the jobs of a sweep."""

import json

import pytest
from tests.support.cli import cairn

from cairn.jobs import slurm
from cairn.run.ledger import Ledger, SubmittedJob


@pytest.mark.parametrize(("answers", "state", "code"), [(True, "failed", 1), (False, "unknown", 0)])
def test_a_job_that_never_began_failed_only_if_the_scheduler_says_so(
    tmp_path, monkeypatch, capsys, answers, state, code
):
    def queued():
        if not answers:
            raise slurm.SlurmError("no controller")
        return {}

    monkeypatch.setattr(slurm, "queued", queued)
    Ledger(tmp_path).add([SubmittedJob("waits", "slurm", "12")])
    cairn("status", tmp_path, expect=code)
    captured = capsys.readouterr()
    assert f"1 {state} of 1." in captured.out
    assert ("the scheduler does not answer (no controller)" in captured.err) is not answers
    cairn("status", tmp_path, "--json", expect=code)
    assert [job["state"] for job in json.loads(capsys.readouterr().out)] == [state]
