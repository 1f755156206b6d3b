"""PED-ANOVA by Optuna, where it is installed."""

import warnings

import pytest
from tests.support.made_searches import PARAMETERS, drawn, search_directory, value
from tests.support.made_searches import record as made

from cairn.study.search import importance, ped_anova, record
from cairn.study.search.record import Parameter

optuna = pytest.importorskip("optuna")


def test_the_search_is_judged_by_it(tmp_path):
    found = importance.importance(record.read(search_directory(tmp_path, made(60), curves=False)))
    assert found.measure == "ped-anova"
    assert next(iter(found.shares)) == "model.optimizer.lr"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["model.optimizer.lr"] > 0.6 > found.chance["model.optimizer.lr"]


@pytest.mark.parametrize("number", [4, 9, 100])
def test_any_number_of_trials_and_any_kind_of_parameter(number, capfd):
    kinds = {
        "flag": Parameter("choice", choices=(True, 1, 1.0, None, [1, 2])),
        "depth": Parameter("int", low=1, high=9, step=2),
        "width": Parameter("int", low=1, high=512, log=True),
        "rate": Parameter("float", low=0, high=1, step=0.1),
    }
    choices = [True, 1, 1.0, None, [1, 2]]
    trials = [
        {
            "flag": choices[place % 5],
            "depth": 1 + 2 * (place % 5),
            "width": 1 + place,
            "rate": round(0.1 * (place % 9), 1),
        }
        for place in range(number)
    ]
    trials[0].pop("rate")
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = ped_anova.shares(kinds, trials, [[float(place) for place in range(number)]])
    assert set(found) == set(kinds)
    assert all(share >= 0 for share in found.values())
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_lower_is_better():
    trials = drawn(60)
    space = {
        name: Parameter(**{**kind, "choices": tuple(kind.get("choices", ()))}) for name, kind in PARAMETERS.items()
    }
    scores = [value(trial, 9) for trial in trials]
    best_first, worst_first = ped_anova.shares(space, trials, [scores, [-score for score in scores]])
    assert best_first != worst_first
