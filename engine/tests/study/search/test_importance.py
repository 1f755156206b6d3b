"""Importance compares trials at one stop, names its measure, and shows what chance gives."""

import sys

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.search import importance, record

LR, DROPOUT = "model.optimizer.lr", "model.net.dropout"


@pytest.fixture
def read(tmp_path):
    return lambda found: record.read(search_directory(tmp_path, found, curves=False))


@pytest.fixture
def without_optuna(monkeypatch):
    monkeypatch.setattr(importance, "find_spec", lambda name: None)


def test_trials_are_compared_where_most_of_them_were(read):
    rung, trials = importance.compared(read(made(27, (1, 3, 9, 27))))
    assert (rung, len(trials)) == (0, 27)
    found = made(4)
    for trial in found["trials"]:
        trial["rungs"] = [{**trial["rungs"][0], "rung": rung} for rung in range(3)]
    del found["trials"][3]["rungs"][2]
    assert importance.compared(read(found))[0] == 1, "of equals the last"


@pytest.mark.usefixtures("without_optuna")
def test_what_decides_the_score_is_first_and_above_chance(read):
    found = importance.importance(read(made(40)))
    assert found.measure == "ranks"
    assert found.why_plain == ""
    assert next(iter(found.shares)) == LR
    assert found.shares[LR] > 0.7 > 0.3 > found.chance[LR]
    assert not found.is_rough
    assert found == importance.importance(read(made(40))), "the same figures each time"


@pytest.mark.usefixtures("without_optuna")
def test_a_score_to_maximize_gives_the_same(read):
    found = made(40)
    for trial in found["trials"]:
        for result in trial["rungs"]:
            result["score"] *= -1
    assert importance.importance(read({**found, "mode": "max"})).shares == importance.importance(read(made(40))).shares


@pytest.mark.usefixtures("without_optuna")
def test_parameters_that_only_some_trials_have_are_judged_by_those(read):
    found = made(40)
    for trial in found["trials"][:20]:
        del trial["parameters"][DROPOUT]
    assert importance.importance(read(found)).shares[DROPOUT] < 0.3


@pytest.mark.usefixtures("without_optuna")
@pytest.mark.parametrize("mode", ["min", "max"])
def test_trials_that_diverged_are_the_worst(read, mode):
    found = made(40)
    for trial in found["trials"]:
        for result in trial["rungs"]:
            result["score"] = None if trial["parameters"][DROPOUT] > 0.25 else 0.5 + trial["number"] / 1000
    judged = importance.importance(read({**found, "mode": mode}))
    assert len(judged.trials) == 40
    assert next(iter(judged.shares)) == DROPOUT
    assert judged.shares[DROPOUT] > 0.5


def test_with_few_trials_the_figures_are_rough(read):
    assert importance.importance(read(made(9))).is_rough


@pytest.mark.parametrize("number", [0, 1, 3])
def test_with_too_few_trials_there_are_none(read, number):
    assert importance.importance(read(made(number))) is None


def test_without_differences_there_are_none(read):
    found = made(9)
    for trial in found["trials"]:
        trial["parameters"] = {LR: 0.1}
    assert importance.importance(read(found)) is None
    found = made(9)
    for trial in found["trials"]:
        trial["rungs"][0]["score"] = 0.5
        del trial["rungs"][1:]
    assert importance.importance(read(found)) is None


def test_an_optuna_that_cannot_be_used_is_named(read, monkeypatch):
    monkeypatch.setattr(importance, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "optuna", None)
    found = importance.importance(read(made(40)))
    assert found.measure == "ranks"
    assert found.why_plain.startswith("ModuleNotFoundError: ")
