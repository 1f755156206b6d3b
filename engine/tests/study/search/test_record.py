"""The record of a search is read exactly, or refused by a sentence."""

import json

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.errors import MissingFileError, ResumeError
from cairn.study.search import record


def changed(**parts):
    return {**made(), **parts}


def with_trial(**parts):
    found = made()
    found["trials"][0] |= parts
    return found


def with_result(**parts):
    found = made()
    found["trials"][0]["rungs"][0] |= parts
    return found


def test_every_field_is_read(tmp_path):
    search = record.read(search_directory(tmp_path, made(), curves=False))
    assert (search.metric, search.mode, search.rungs, search.eta) == ("val/loss", "min", ("1ep", "3ep", "9ep"), 3)
    assert search.parameters["model"].choices == ("mlp", "cnn")
    assert search.parameters["model.optimizer.lr"].log
    assert [len(trial.rungs) for trial in search.trials].count(3) == 1
    first = search.trials[0]
    assert first.at(0).total_batches == 15
    assert first.at(2) is None or first.state == "finished"
    assert search.folder(first) == tmp_path / "trial=0"


def test_what_a_later_version_adds_is_left_out(tmp_path):
    found = changed(pruner="x")
    found["trials"][0] |= {"host": "node"}
    found["trials"][0]["rungs"][0] |= {"elapsed_s": 1.0}
    found["parameters"] = {"lr": {"kind": "float", "low": 0, "high": 1, "unit": "none"}}
    assert record.read(search_directory(tmp_path, found, curves=False)).trials[0].number == 0


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "1e200", "null"])
def test_a_score_that_is_not_finite_is_none(tmp_path, score):
    text = json.dumps(with_result(score=12345.5)).replace("12345.5", score)
    (tmp_path / "sweep.json").write_text(text)
    assert record.read(tmp_path).trials[0].rungs[0].score is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "it has no fields"),
        (changed(format=2), "it has format 2, and this version of cairn reads 1: update cairn"),
        (changed(mode="up"), "mode is 'up'"),
        (changed(rungs=[]), "rungs is empty"),
        (changed(trials=[{}]), "is missing"),
        (changed(trials=[3]), "expected fields"),
        (changed(parameters={"lr": {"kind": "float", "low": float("nan")}}), "low is nan"),
        (changed(parameters={"lr": 3}), "expected fields"),
        (changed(trials=2 * made()["trials"]), "two trials have the same number"),
        (with_trial(rungs=2 * made()["trials"][0]["rungs"][:1]), "trial 0 has rungs [0, 0], of 3"),
        (with_trial(full_batches=-1), "full_batches is -1"),
        (with_trial(parameters={"lr": 10**400}), "a parameter of trial 0 is not a finite number, or is too large"),
        (with_trial(parameters={"lr": [float("inf")]}), "a parameter of trial 0 is not a finite number"),
        (changed(parameters={"lr": {"kind": "choice", "choices": [float("nan")]}}), "a choice is not a finite number"),
        (changed(eta=float("inf")), "eta is inf"),
        (with_result(rung=3), "has rungs"),
        (with_result(total_batches=-5), "total_batches is -5"),
        (with_result(score="low"), "score is 'low'"),
    ],
)
def test_what_is_not_such_a_record_is_refused(tmp_path, found, message):
    (tmp_path / "sweep.json").write_text(json.dumps(found))
    with pytest.raises(ResumeError, match="is not the record of a search") as caught:
        record.read(tmp_path)
    assert message in str(caught.value)
    assert "--saving" in str(caught.value)


def test_a_file_that_is_missing_or_cut_is_one_sentence(tmp_path):
    with pytest.raises(MissingFileError, match=r"sweep\.json does not exist"):
        record.read(tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps(made())[:100])
    with pytest.raises(ResumeError, match="is not the record of a search"):
        record.read(tmp_path)
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "sweep.json").mkdir()
    with pytest.raises(ResumeError, match="cannot be read"):
        record.read(tmp_path)


@pytest.mark.parametrize("directory", ["/etc", "../other", "a/../../b", "", ".", "a\0b", "\ud800"])
def test_a_directory_outside_of_the_sweep_is_not_read(tmp_path, directory):
    search = record.read(search_directory(tmp_path, with_trial(directory=directory), curves=False))
    assert search.folder(search.trials[0]) is None
