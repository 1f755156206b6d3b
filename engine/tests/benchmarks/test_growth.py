"""The frame of the growth curves, and that each curve over checkpoints measures what it says."""

import pytest
from benchmarks.growth import command, curve, made, page, plot, store
from benchmarks.growth.curve import Measured

from cairn.run.directory import RunDirectory
from cairn.store import names, resume
from cairn.store.audit import check_directory
from cairn.store.catalog import Catalog
from cairn.study import reading


def measured(*seconds, goal_s=None, error=""):
    sizes = (10, 20, 80)[: len(seconds)]
    return Measured("a name", "what it is", "things", goal_s, sizes, seconds, [5_000_000] * len(seconds), error)


@pytest.mark.parametrize(
    ("seconds", "ratio"),
    [((1.0, 2.0, 8.0), 2.0), ((1.0, 1.0, 16.0), 4.0), ((1.0, 3.0, 3.0), 1.0), ((1.0, 4.0), 4.0), ((1.0,), None)],
)
def test_the_ratio_per_doubling_is_that_of_the_last_two_sizes(seconds, ratio):
    assert measured(*seconds).per_doubling == (None if ratio is None else pytest.approx(ratio))


@pytest.mark.parametrize(
    ("goal_s", "error", "verdict"),
    [(None, "", ""), (8.0, "", "met"), (7.9, "", "missed"), (8.0, "20: it broke", "failed")],
)
def test_the_goal_is_for_the_largest_size(goal_s, error, verdict):
    assert measured(1.0, 2.0, 8.0, goal_s=goal_s, error=error).verdict == verdict


def test_every_module_of_the_folder_with_curves_takes_part():
    assert {"benchmarks.growth.store", "benchmarks.growth.runs", "benchmarks.growth.tensors"} <= set(curve.modules())
    found = [item for module in curve.modules() for item in curve.curves(module)]
    assert len({item.name for item in found}) == len(found)
    assert all(item.sizes == tuple(sorted(item.sizes)) for item in found)


def test_the_page_and_the_plot_show_each_curve(tmp_path):
    found = [measured(0.001, 0.002, 4.0, goal_s=5.0), measured(error="10: it broke")]
    about = dict.fromkeys(("date", "cpu", "cores", "file_system", "python", "torch"), "x")
    text = page.text({"machine": about, "repeat": 2}, found, "A remark.")
    assert "| what it is | things | 10: 1 ms, 20: 2 ms, 80: 4 s | x 44.72 | 5 | 5 s | met |" in text
    assert "10: it broke" in text
    assert "A remark." in text
    plot.draw(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_made_directory_and_a_made_run_are_what_a_training_leaves(tmp_path):
    made.store(tmp_path / "checkpoints", 5)
    assert {item.state for item in check_directory(tmp_path / "checkpoints")} == {"whole"}
    assert resume.find_resume_point(tmp_path / "checkpoints").saved.number == 4
    run = RunDirectory(made.run(tmp_path / "run", number=3, checkpoints=2))
    assert run.record().status == "finished"
    assert len(Catalog(run.checkpoints()).committed()) == 2
    found = reading.read_run(run.path)
    assert (found.num_saves, found.source, found.monitor, len(found.ends)) == (20, "checkpoints.csv", "val/loss", 1)
    assert found.best is not None


@pytest.mark.parametrize("measure", [store.save_all, store.save_bytes, store.save_rules, store.start])
def test_a_curve_over_checkpoints_runs_at_any_size(tmp_path, measure):
    assert measure(tmp_path, 4) >= 0
    links = [tmp_path / "checkpoints" / name for name in (names.LAST, names.BEST)]
    assert all(link.exists() for link in links)


def test_a_measurement_that_fails_says_why_and_the_others_go_on(tmp_path):
    found = command._one(
        "benchmarks.growth.store", curve.Curve("none", "", "", (1, 2, 3), store.start), 1, tmp_path, 60
    )
    assert (found.sizes, found.verdict) == ((), "failed")
    assert "not enough values to unpack" in found.error
