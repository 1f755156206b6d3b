"""The numbers in the pictures are those of the search. How the pictures look has to be checked by eye."""

import numpy as np
import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study import picture
from cairn.study.search import plots, reading


@pytest.fixture
def read(tmp_path):
    return lambda found, curves=True: reading.read(search_directory(tmp_path / "sweep", found, curves))


def test_each_trial_has_its_curve_and_the_best_is_on_top(read):
    study = read(made())
    figure, is_cut = plots.curves(study, study.ranked, {t.number: study.curve(t) for t in study.ranked})
    (axis,) = figure.axes
    assert not is_cut
    lines = sorted((line for line in axis.lines if len(line.get_xdata()) > 2), key=lambda line: line.get_zorder())
    assert list(lines[-1].get_xdata()) == [15 * epoch for epoch in range(1, 10)]
    assert lines[-1].get_color() == picture.RED
    marks = [text.get_text() for text in axis.texts]
    assert marks == ["1ep", "3ep", "9ep"]
    assert axis.get_xscale() == "log"


def test_a_trial_that_diverged_does_not_hide_the_others(read):
    found = made()
    found["trials"][0]["rungs"][0]["score"] = 1e6
    study = read(found)
    figure, is_cut = plots.curves(study, study.ranked, {t.number: study.curve(t) for t in study.ranked})
    assert is_cut
    assert figure.axes[0].get_ylim()[1] < 10


def test_the_bars_are_the_batches_for_each_stop(read):
    study = read(made())
    (axis,) = plots.trials(study, study.ranked).axes
    widths = [(round(bar.get_y() + bar.get_height() / 2), bar.get_width()) for bar in axis.patches]
    assert [width for place, width in widths if place == 0] == [135, 15, 30, 90]
    assert [width for place, width in widths if place == 8] == [135, 15]
    *scores, head = (text.get_text() for text in axis.texts)
    assert [text.split(" at ")[1] for text in scores] == ["9ep", "3ep", "3ep", *["1ep"] * 6]
    assert head == "trial: lr, dropout, model"


def test_pictures_without_data_are_omitted(read):
    assert [item.name for item in plots.pictures(read(made()))] == ["curves", "trials", "importance", "parameters"]
    assert [item.name for item in plots.pictures(read({**made(), "trials": []}))] == []
    found = made(4)
    for trial in found["trials"]:
        trial["rungs"] = []
    assert [item.name for item in plots.pictures(read(found))] == []


def test_of_many_trials_some_are_drawn_and_the_caption_says_so(read):
    study = read(made(81, (1, 3, 9, 27)), curves=False)
    captions = {item.name: item.caption for item in plots.pictures(study)}
    assert "Shown are 30 of 81 trials" in captions["trials"]
    assert "only the scores at the stops are known: trial " in captions["curves"]
    chosen = plots._some(study.ranked, 30)
    assert chosen[:15] == study.ranked[:15]
    assert chosen[-1] == study.ranked[-1]
    assert len({trial.number for trial in chosen}) == 30


@pytest.mark.parametrize("kind", ["one rung", "brackets", "odd texts", "negative", "equal", "running", "diverged"])
def test_any_search_can_be_drawn(read, kind):
    found = made()
    if kind == "one rung":
        found = {**made(5, (9,)), "rungs": ["end"]}
    if kind == "brackets":
        found["trials"][0] |= {"bracket": 1, "rungs": [{**found["trials"][0]["rungs"][0], "rung": 1}]}
    if kind == "odd texts":
        found |= {"metric": "$\\odd{$_^", "rungs": ["$a_$", "$\\b$", "%s{}"]}
        found["parameters"] = {"$x_$": {"kind": "choice", "choices": ["$\\a$", "<b>"]}}
        for number, trial in enumerate(found["trials"]):
            trial["parameters"] = {"$x_$": ["$\\a$", "<b>"][number % 2]}
    for trial in found["trials"]:
        for result in trial["rungs"]:
            result["score"] *= {"negative": -1, "equal": 0}.get(kind, 1)
    if kind == "diverged":
        found["trials"][1]["rungs"][0]["score"] = None
    if kind == "running":
        found["state"] = found["trials"][0]["state"] = "running"
        found["trials"][1] |= {"state": "failed", "rungs": []}
    pictures = plots.pictures(read(found, curves=kind != "odd texts"))
    assert len(pictures) >= 2
    for item in pictures:
        item.figure.set_dpi(40)
        item.figure.canvas.draw()
        assert np.asarray(item.figure.canvas.buffer_rgba()).std() > 1, "something is drawn"
