"""The numbers in the pictures are those of the runs. How the pictures look has to be checked by eye."""

import os
import subprocess
import sys

import matplotlib.image
import pytest
from tests.support.made_runs import end, run_directory
from tests.support.paths import ENGINE

from cairn.study import choice, picture, plots, reading


def study(folder, mtbf_s=None):
    return choice.study(reading.read(folder), mtbf_s)


@pytest.fixture
def folder(tmp_path):
    run_directory(tmp_path / "sweep", 100, ends=[end(370, 300, 100)])
    for interval in (20, 400):
        run_directory(tmp_path / "sweep", interval)
    return tmp_path / "sweep"


def test_matplotlib_is_imported_only_when_something_is_drawn():
    code = "import sys, cairn.cli.main, cairn.study.page, cairn.study.plots; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ENGINE / "src")}, check=True)


def widths(axis):
    return [bar.get_width() for bar in axis.patches]


def test_each_run_has_a_bar(folder):
    found = study(folder)
    figure = plots.runs(found)
    overhead, stall, written, held, risk, best = figure.axes
    assert widths(overhead) == pytest.approx([100 * run.overhead for run in found.sweep.runs])
    assert widths(stall) == pytest.approx([50.0] * 3)
    assert widths(written) == pytest.approx([run.written_bytes / 1e6 for run in found.sweep.runs])
    assert widths(held) == pytest.approx([run.held_bytes / 1e3 for run in found.sweep.runs])
    assert widths(risk)[::2] == pytest.approx([run.at_risk_s for run in found.sweep.runs])
    assert widths(risk)[1::2] == pytest.approx([0.0, 7.2, 0.0])
    assert [text.get_text() for text in overhead.texts] == ["10 %", "2 %", "few saves"]
    assert [label.get_text() for label in overhead.get_yticklabels()] == ["20", "100", "400"]
    low, high = overhead.get_ylim()
    assert high < 0 < len(found.sweep.runs) - 1 < low, "the shortest on top, and all inside"
    assert [line.get_xdata()[0] for line in best.lines] == [0.25] * 3


def test_the_choice_is_on_the_curve_and_each_run_is_a_point(folder):
    found = study(folder, 3600.0)
    (axis,) = plots.loss(found).axes
    lines = {line.get_label(): line for line in axis.lines}
    (advice,) = found.advice
    chosen = lines[f"choose {advice.interval_batches} batches"]
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (advice.interval_s, 100 * advice.loss)
    assert min(lines["both, M = 1 h"].get_ydata()) == pytest.approx(100 * advice.loss, rel=0.01)
    squares = [line for line in axis.lines if line.get_marker() == "s"][:3]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in squares]
    expected = [(run.spacing_s, 100 * (run.overhead + run.at_risk_s / 3600)) for run in found.sweep.runs]
    assert points == [pytest.approx(point) for point in expected]


def test_lost_work_is_red(folder):
    found = study(folder)
    (axis,) = plots.kills(found).axes
    red = [bar for bar in axis.patches if bar.get_facecolor()[0] > 0.7]
    assert [bar.get_width() for bar in red] == [pytest.approx(7.2)]
    ends = [
        max(bar.get_x() + bar.get_width() for bar in axis.patches if round(bar.get_y() + 0.25) == k) for k in range(3)
    ]
    assert ends == [pytest.approx(run.trained_s) for run in found.sweep.runs]


def test_pictures_without_data_are_omitted(tmp_path, folder):
    assert [item.name for item in plots.pictures(study(folder))] == ["runs", "loss", "kills"]
    run_directory(tmp_path / "calm", 100)
    assert [item.name for item in plots.pictures(study(tmp_path / "calm"))] == ["runs", "loss"]
    run_directory(tmp_path / "nothing", 2000)
    assert [item.name for item in plots.pictures(study(tmp_path / "nothing"))] == ["runs"]


@pytest.mark.parametrize("mtbf_s", [None, 60.0, 1e7])
@pytest.mark.parametrize(("interval", "batches"), [(100, 1000), (2000, 1000), (400, 1000), (2, 10)])
def test_any_single_run_can_be_drawn(tmp_path, interval, batches, mtbf_s):
    run_directory(tmp_path / "one", interval, batches)
    paths = picture.write(plots.pictures(study(tmp_path / "one", mtbf_s)), tmp_path / "out")
    for path in paths:
        image = matplotlib.image.imread(path)
        assert image.std() > 0.01, "something is drawn"


@pytest.mark.parametrize(
    ("most", "step"), [(14.0, 2.0), (0.9, 0.1), (1.0, 0.1), (99.0, 10.0), (100.0, 10.0), (3.0, 0.5)]
)
def test_an_axis_has_round_steps(most, step):
    assert plots._step(most) == pytest.approx(step)


def test_of_many_runs_some_are_drawn_and_the_caption_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_MOST_ROWS", 3)
    for interval in (10, 20, 40, 50, 100):
        run_directory(tmp_path / "sweep", interval, ends=[end(70, 50, interval)] if interval < 50 else [])
    found = study(tmp_path / "sweep", 3600.0)
    drawn = {item.name: item for item in plots.pictures(found)}
    rows = [label.get_text() for label in drawn["runs"].figure.axes[0].get_yticklabels()]
    assert rows == ["10", "40", "100"], "the first and the last, and evenly between them"
    assert [label.get_text() for label in drawn["kills"].figure.axes[0].get_yticklabels()] == ["10", "20", "40"]
    assert all(item.caption.endswith("Shown are 3 of 5 runs; the table has all.") for item in drawn.values())
    (axis,) = drawn["loss"].figure.axes
    whole = plots.loss(found).axes[0]
    assert list(axis.lines[0].get_ydata()) == list(whole.lines[0].get_ydata()), "conclusions are those of all runs"
