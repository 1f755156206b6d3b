"""The sentences of the report of a search are those of its figures."""

import json

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.search import importance, reading, words


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "find_spec", lambda name: None)
    return lambda found: reading.read(search_directory(tmp_path, found, curves=False))


def test_the_conclusion_names_the_search_the_best_trial_and_what_was_saved(read):
    search, best, training = words.conclusion(read(made()))
    assert search == (
        "9 trials: 1 finished, 8 stopped. Halving, stops at 1ep, 3ep, 9ep (sampler random, seed 0, eta 3)."
    )
    assert best.startswith("Best: trial ")
    assert "at 9ep, with lr=" in best
    assert training == (
        "Trained 315 batches, as many as 2.33 full runs. All trials to the end would have taken 1,215: 74 % was saved. "
        "With trials that start again from zero at each stop, the same search would have taken 405 batches, 29 % more."
    )


def test_a_search_with_one_rung_saves_nothing(read):
    found = made(4, (9,))
    for trial in found["trials"]:
        trial["state"] = "finished"
    search, best, training = words.conclusion(read({**found, "rungs": ["end"], "sampler": None}))
    assert search == "4 trials: 4 finished. Every trial is trained to the end (seed 0)."
    assert " at " not in best
    assert training.endswith("so no training was saved.")


def test_a_search_that_runs_promises_nothing(read):
    found = made()
    found["trials"][8]["state"] = "paused"
    search, _, training = words.conclusion(read({**found, "state": "running"}))
    assert "1 paused" in search
    assert search.endswith("The search is not finished.")
    assert "Trained so far 315" in training
    assert "74 % is saved if no trial goes on" in training


def test_a_search_that_has_just_begun(read):
    study = read({**made(), "trials": [], "state": "running"})
    assert words.conclusion(study) == [
        "0 trials: none yet. Halving, stops at 1ep, 3ep, 9ep (sampler random, seed 0, eta 3). The search is not "
        "finished.",
        "No trial has a value of val/loss yet.",
    ]
    assert words.notes(study) == []
    assert json.loads(json.dumps(words.figures(study), allow_nan=False))["best"] is None


def test_the_measure_of_importance_is_named_with_its_limits(read):
    few, many = " ".join(words.notes(read(made()))), " ".join(words.notes(read(made(40))))
    for notes in (few, many):
        assert words.METHODS["ranks"] in notes
        assert "With Optuna installed, PED-ANOVA is used instead." in notes
        assert (
            "at 1ep, the stop that most trials have reached. What matters only later in training does not show."
            in notes
        )
    assert "9 trials are too few for this number of parameters: the figures mean little." in few
    assert "too few" not in many


def test_the_best_trial_has_a_line_that_can_be_copied(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = made()
    study = read(found)
    assert words.best_run(study) == [f"run of the best trial: trial={study.best.number}"]
    line = next(item for item in words.terminal(study) if "run of the best" in str(item))
    assert line.no_wrap


def test_a_best_trial_that_was_better_before_is_named(read):
    found = made()
    best = read(found).best.number
    assert not any("was better before" in note for note in words.notes(read(found)))
    found["trials"][best]["rungs"][-1]["score"] = 0.9
    assert any(note.startswith(f"Trial {best} was better before: 0.1") for note in words.notes(read(found)))


@pytest.mark.parametrize(("name", "is_folded"), [("lr", False), ("a_parameter_with_a_long_name_indeed", True)])
def test_parameters_share_a_column_if_the_line_is_too_short(read, name, is_folded):
    found = made()
    found["parameters"] = {f"{name}{number}": {"kind": "float", "low": 0, "high": 1} for number in range(3)}
    tables = [item for item in words.terminal(read(found)) if hasattr(item, "columns")]
    assert any(column.header == "parameters" for column in tables[1].columns) == is_folded


def test_failed_and_odd_trials_are_named(read):
    found = made(12)
    for trial in found["trials"][:7]:
        trial |= {"state": "failed", "error": "CUDA out of memory\nmore", "rungs": trial["rungs"][:1]}
    found["trials"][8]["rungs"][0]["score"] = None
    found["trials"][9]["directory"] = "../x"
    found["trials"][10]["full_batches"] = None
    notes = words.notes(read(found))
    assert "Trial 0 failed after 15 batches: CUDA out of memory." in notes
    assert "2 more trials failed." in notes
    assert "Trial 8: val/loss is missing or not finite at a stop, which ranks last there." in notes
    assert "Trial 9: the directory is not below that of the sweep, and is not read." in notes
    assert "The full length of 1 trial is unknown; 135 batches are assumed, as for the others." in notes


def test_the_figures_are_valid_json(read):
    found = json.loads(json.dumps(words.figures(read(made())), allow_nan=False))
    assert found["training"]["saved"] == pytest.approx(1 - 315 / 1215)
    assert [item["num_stopped"] for item in found["outcomes"]] == [6, 2, 0]
    assert found["trials"][0]["number"] == found["best"]
    assert found["importance"]["measure"] == "ranks"
    assert next(iter(found["importance"]["shares"])) == "model.optimizer.lr"


def test_texts_of_others_cannot_control_the_terminal(read):
    found = made()
    odd = "\x1b[31m"
    found["trials"][0] |= {"state": "failed", "error": odd, "directory": odd, "parameters": {odd: odd}}
    found |= {"metric": odd, "sampler": odd, "schedule": odd, "rungs": [odd, odd + "2", odd + "3"]}
    found["parameters"] = {odd: {"kind": "choice", "choices": [odd]}}
    study = read(found)
    assert "\x1b" not in "".join([*words.conclusion(study), *words.notes(study)])
