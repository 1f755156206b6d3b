"""The values that a trial can have, and how they are written."""

import pytest

from cairn.errors import ConfigError
from cairn.search.space import Choice, Float, Int, Space

LISTS = Space(
    {
        "model": Choice(("mlp", "cnn"), ("mlp", "cnn")),
        "flag": Choice((1, True, None, [1, "a b"]), ("1", "true", "null", "[1,'a b']")),
        "depth": Int(2, 8, step=3),
        "drop": Float(0.1, 0.31, step=0.1),
    }
)


def test_a_space_of_lists_can_be_counted():
    assert LISTS.size == 2 * 4 * 3 * 3
    assert LISTS.parameters["depth"].values() == [2, 5, 8]
    assert LISTS.parameters["drop"].values() == [0.1, 0.2, 0.3]
    assert Space({"lr": Float(0.1, 1.0)}).size is None


def test_a_large_range_is_counted_without_a_list_of_it():
    assert Space({"seed": Int(0, 2**40)}).size == 2**40 + 1


def test_values_are_written_as_overrides():
    values = {"model": "cnn", "flag": [1, "a b"], "depth": 5, "drop": 0.2}
    assert LISTS.overrides(values) == ["model=cnn", "flag=[1,'a b']", "depth=5", "drop=0.2"]
    assert LISTS.overrides({**values, "flag": True})[1] == "flag=true", "1 and true are two choices"


def test_a_grid_has_each_trial_once_in_an_order_of_the_seed():
    grid = LISTS.grid(0)
    assert len({tuple(LISTS.overrides(point)) for point in grid}) == len(grid) == LISTS.size
    assert LISTS.grid(0) == grid != LISTS.grid(1)
    taken = {tuple(LISTS.overrides(point)) for point in grid[:-1]}
    assert list(LISTS.unused(taken)) == grid[-1:]


def test_a_grid_of_an_interval_is_refused():
    with pytest.raises(ConfigError, match="lr is an interval"):
        Space({"lr": Float(0.1, 1.0)}).grid(0)


def test_sampled_numbers_are_short_and_in_their_range():
    item = Float(1 / 3, 2 / 3)
    assert item.rounded(0.4512345678) == 0.451235
    assert item.rounded(1 / 3) == 1 / 3
    assert item.rounded(2 / 3) == 2 / 3
    assert Float(0.9999, 0.99999).rounded(0.99993456789) == 0.9999345679
    assert Float(2.0, 2.0).rounded(2.0) == 2.0


def test_a_value_of_a_grid_stays_on_it():
    item = Float(1000.0, 1000.003, step=0.001)
    assert item.values() == [1000.0, 1000.001, 1000.002, 1000.003]
    assert item.rounded(1000.0020000000002) == 1000.002


def test_parameters_in_the_file():
    assert Space({"lr": Float(1e-4, 0.1, log=True)}).as_json()["lr"] == {
        "kind": "float",
        "low": 1e-4,
        "high": 0.1,
        "log": True,
    }
    assert LISTS.as_json()["depth"] == {"kind": "int", "low": 2, "high": 8, "log": False, "step": 3}
    assert LISTS.as_json()["model"] == {"kind": "choice", "choices": ["mlp", "cnn"]}
