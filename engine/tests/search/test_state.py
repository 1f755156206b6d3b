"""sweep.json: written in one step, and read again without Optuna."""

import json
import os
from dataclasses import replace

import pytest
from tests.support.searches import search

from cairn.errors import ResumeError, SaveError
from cairn.search import state
from cairn.search.state import Trial


def some(**more):
    trial = Trial(0, "lr=0.1", {"lr": 0.1, "drop": 0.0}).reaches(0, 0.5, 1, 45).reaches(1, float("nan"), 3, 135)
    failed = Trial(1, "lr=0.2", {"lr": 0.2, "drop": 0.0}, "failed", error="it broke")
    return search(trials=(replace(trial, state="stopped", full_batches=405), failed), **more)


def test_a_search_is_read_as_it_was_written(tmp_path):
    assert state.read(tmp_path) is None
    state.write(tmp_path, some())
    assert state.read(tmp_path) == some()


def test_the_form_of_the_file(tmp_path):
    state.write(tmp_path, some())
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert (found["format"], found["state"], found["rungs"]) == (1, "running", ["1ep", "3ep", "end"])
    one, other = found["trials"]
    assert one["rungs"][0] | {"finished_at": ""} == {
        **{"rung": 0, "score": 0.5, "epoch": 1, "batches": 45, "total_batches": 45, "finished_at": ""}
    }
    assert (one["rungs"][1]["score"], one["rungs"][1]["batches"], "error" in one) == (None, 90, False)
    assert (other["state"], other["error"], other["full_batches"]) == ("failed", "it broke", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not the state of a search"), ('{"format": 2}', "newer version"), ("[]", "is not the state of a search")],
)
def test_a_file_that_is_not_a_search_is_refused(text, message, tmp_path):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ResumeError, match=message):
        state.read(tmp_path)


def test_the_newest_unfinished_search_of_a_command_is_found(tmp_path):
    command = ("b=2", "a=1")
    folders = {"old": {}, "new": {}, "finished": {"state": "finished"}, "other": {"command": ("a=1",)}}
    for age, (name, more) in enumerate(folders.items()):
        (tmp_path / name).mkdir()
        state.write(tmp_path / name, some(**{"command": command, **more}))
        os.utime(tmp_path / name / "sweep.json", (age, age))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text("{")
    assert state.unfinished(tmp_path, ["a=1", "b=2"]) == tmp_path / "new"
    assert state.unfinished(tmp_path, ["a=2"]) is None


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(SaveError, match=r"sweep.json could not be written: .*repeat the command"):
        state.write(tmp_path / "missing", some())
