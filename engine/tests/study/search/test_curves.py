"""Learning curves come from metrics.csv, whatever it looks like."""

import pytest
import yaml
from tests.support.made_searches import record as made
from tests.support.made_searches import value, write_metrics

from cairn.study.search import curves


def write(run, text):
    (run / "csv").mkdir()
    (run / "csv" / "metrics.csv").write_text(text)
    return run


def test_a_curve_has_the_metric_at_the_batches_of_its_validations(tmp_path):
    (trial, *_) = [trial for trial in made()["trials"] if trial["state"] == "finished"]
    write_metrics(tmp_path, trial)
    found = curves.read(tmp_path, "val/loss")
    assert found.batches == tuple(15 * epoch for epoch in range(1, 10))
    assert found.values == pytest.approx([value(trial["parameters"], epoch) for epoch in range(1, 10)])


def test_a_step_may_have_several_batches(tmp_path):
    write(tmp_path, "epoch,step,val/loss\n0,4,0.5\n")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"checkpoint": {}, "trainer": {"accumulate_grad_batches": 3}}))
    assert curves.read(tmp_path, "val/loss").batches == (15,)


def test_a_metric_by_step_and_epoch_is_taken_by_epoch(tmp_path):
    write(tmp_path, "epoch,step,loss_epoch,loss_step\n0,0,,0.9\n0,4,0.5,\n")
    assert curves.read(tmp_path, "loss") == curves.Curve((5,), (0.5,))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,step\n0,1\n",
        "epoch,val/loss\n0,0.5\n",
        "epoch,step,val/loss\n0,1,nan\n0,2,inf\n0,x,1\n0,3,y\n0,4\n0,,0.5\n",
        "\0\0\0\n\0",
        'epoch,step,val/loss\n0,"1,2',
    ],
)
def test_what_is_missing_or_damaged_is_not_in_the_curve(tmp_path, text):
    assert curves.read(write(tmp_path, text), "val/loss") == curves.Curve()


def test_a_run_without_metrics_has_an_empty_curve(tmp_path):
    assert curves.read(tmp_path / "gone", "val/loss") == curves.Curve()
    (tmp_path / "csv" / "metrics.csv").mkdir(parents=True)
    assert curves.read(tmp_path, "val/loss") == curves.Curve()


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    write(tmp_path, "epoch,step,val/loss\r\n0,4,0.5\r\n0,9,0.")
    assert curves.read(tmp_path, "val/loss").values == (0.5,)


def test_a_long_curve_is_thinned_and_a_large_file_is_read_in_parts(tmp_path, monkeypatch):
    rows = [f"{step // 100},{step},{step / 2}" for step in range(20_000)]
    write(tmp_path, "\n".join(["epoch,step,val/loss", *rows]) + "\n")
    whole = curves.read(tmp_path, "val/loss")
    assert len(whole.batches) == curves.MOST_POINTS
    assert (whole.batches[0], whole.batches[-1]) == (1, 20_000)
    monkeypatch.setattr(curves, "MOST_BYTES", 64 * 200)
    found = curves.read(tmp_path, "val/loss")
    assert len(found.batches) == curves.MOST_POINTS
    assert (found.batches[0], found.batches[-1]) == (1, 20_000)
    assert all(value == (batch - 1) / 2 for batch, value in zip(found.batches, found.values, strict=True))
    gaps = [later - before for before, later in zip(found.batches, found.batches[1:], strict=False)]
    assert max(gaps) < 500, "the parts are spread over the file"
