"""All pictures of a search have the same shades and scales."""

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.picture import new_figure
from cairn.study.search import record, shades


@pytest.fixture
def search(tmp_path):
    return record.read(search_directory(tmp_path, made(), curves=False))


def test_later_rungs_are_darker(search):
    found = [shades.shade(search, rung) for rung in range(3)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([], "linear"),
        ([0.5], "linear"),
        ([0.1, 0.2, 0.3], "linear"),
        ([0.1, 0.2, 0.3, 1e9], "linear"),
        ([0.001, 0.01, 0.1, 1.0], "log"),
        ([-1.0, 0.0, 1.0], "linear"),
    ],
)
def test_the_scale_fits_all_values_except_those_that_diverged(search, values, scale):
    axis = new_figure(2, 2).subplots()
    shades.scale_scores(axis, search, values)
    assert axis.get_yscale() == scale
    low, high = axis.get_ylim()
    assert [value for value in values if not low <= value <= high] == [value for value in values if value >= 1e8]
