"""The pictures of the parameters show each compared trial at its value."""

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.search import importance, parameter_plots, reading


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "find_spec", lambda name: None)  # the same figures with and without Optuna
    return reading.read(search_directory(tmp_path, made(40), curves=False))


def test_each_parameter_has_a_bar(study):
    (axis,) = parameter_plots.importance(study, study.importance).axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx(
        [100 * s for s in study.importance.shares.values()]
    )
    assert axis.get_yticklabels()[0].get_text() == "lr"


def test_each_compared_trial_is_a_point_in_each_panel(study):
    shown = [*study.importance.shares]
    figure = parameter_plots.parameters(study, study.importance, shown)
    panels = dict(zip(shown, figure.axes, strict=False))
    rate = panels["model.optimizer.lr"]
    assert rate.get_xscale() == "log"
    points = sorted(tuple(point) for point in rate.collections[0].get_offsets())
    expected = sorted((t.parameters["model.optimizer.lr"], t.at(0).score) for t in study.search.trials)
    assert points == [pytest.approx(point) for point in expected]
    choice = panels["model"]
    assert [label.get_text() for label in choice.get_xticklabels()] == ["mlp", "cnn"]
    places = [place for place, _ in choice.collections[0].get_offsets()]
    assert len(set(places)) == 40, "equal choices do not hide each other"
    assert sorted(round(place) for place in places).count(0) == sum(
        t.parameters["model"] == "mlp" for t in study.search.trials
    )


def test_a_caption_says_once_that_there_are_few_trials(tmp_path):
    few = reading.read(search_directory(tmp_path, made(8), curves=False))
    captions = [picture.caption for picture in parameter_plots.pictures(few)]
    assert [caption.count("the figures mean little") for caption in captions] == [1, 0]
