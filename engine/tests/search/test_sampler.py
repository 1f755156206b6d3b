"""Which parameters the next trial has."""

import pytest
from tests.support.searches import SPACE, FakeRuns, drive, score_of, search

from cairn.errors import ConfigError
from cairn.search import sampler
from cairn.search.space import Choice, Float, Int, Space
from cairn.search.state import Trial

pytest.importorskip("optuna")

SMALL = Space({"model": Choice(("mlp", "cnn"), ("mlp", "cnn")), "depth": Int(1, 3)})
MIXED = Space(
    {
        "model": Choice(("mlp", None, 3), ("mlp", "null", "3")),
        "depth": Int(1, 64, log=True),
        "width": Int(8, 64, step=8),
        "drop": Float(0.0, 0.5, step=0.1),
        "lr": Float(1e-4, 1e-1, log=True),
    }
)


def asked(kind, number, space=SPACE, seed=0):
    """Parameters of the first trials, without any score."""
    state = search(sampler=kind, seed=seed)
    for count in range(number):
        state = state.with_trial(Trial(count, str(count), sampler.ask(space, state)))
    return [dict(trial.parameters) for trial in state.trials]


@pytest.mark.parametrize("kind", ["tpe", "random", "gp"])
def test_trials_follow_from_the_seed_and_are_in_their_ranges(kind):
    found = asked(kind, 4, MIXED)
    assert found == asked(kind, 4, MIXED) != asked(kind, 4, MIXED, seed=1)
    for values in found:
        assert values["model"] in ("mlp", None, 3)
        assert 1 <= values["depth"] <= 64
        assert values["width"] in range(8, 65, 8)
        assert values["drop"] in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
        assert 1e-4 <= values["lr"] <= 0.1
        assert len(f"{values['lr']:g}") <= len("1.23457e-05")


def test_a_small_space_is_asked_for_completely_and_nothing_twice():
    found = asked("tpe", 6, SMALL)
    assert len({tuple(SMALL.overrides(values)) for values in found}) == SMALL.size == 6


def test_a_grid_is_followed():
    assert asked("grid", 6, SMALL, seed=3) == SMALL.grid(3)


def test_tpe_learns_from_the_first_rung():
    """The second half of its trials is better than that of a search by chance."""
    means = {}
    for name in ("tpe", "random"):
        state = search(sampler=name, num_trials=40, rungs=("1ep", "end"))
        found, _ = drive(state, FakeRuns(), lambda now: sampler.ask(SPACE, now), num_parallel=5)
        scores = [score_of(trial.parameters, 5) for trial in found.trials[20:]]
        means[name] = sum(scores) / len(scores)
    assert means["tpe"] < 0.9 * means["random"]


def test_trials_are_compared_at_one_rung():
    def trials(*counts):
        found = []
        for rung, count in enumerate(counts):
            found += [Trial(0, "", {}).reaches(rung, 0.1, 1, 5) for _ in range(count)]
        return found

    assert sampler.compared_at(trials(12, 3), 3) == 0
    assert sampler.compared_at(trials(12, 10, 2), 3) == 1
    assert sampler.compared_at(trials(4, 5), 2) == 1
    assert sampler.compared_at([], 2) == 0


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ConfigError, match="sampler='best' must be tpe, random, grid, gp"):
        sampler.check("best")


def test_without_optuna_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(sampler, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^A search needs Optuna: pip install "):
        sampler.check("tpe")


def test_gaussian_processes_learn_from_the_first_rung():
    state = search(sampler="gp", num_trials=30)
    for number in range(12):
        trial = Trial(number, str(number), {"lr": 10 ** (-1 - number / 4), "drop": number % 3 / 4}, "paused")
        state = state.with_trial(trial.reaches(0, score_of(trial.parameters, 5), 1, 5))
    found = sampler.ask(SPACE, state)
    assert 0.003 < found["lr"] < 0.03, "the best is 0.01"
