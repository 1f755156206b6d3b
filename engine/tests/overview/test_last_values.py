"""Last values of metrics, from the end of the file."""

import math

import pytest
from tests.support.listed_runs import metrics

from cairn.overview import last_values
from cairn.overview.last_values import LastValues


def test_each_metric_has_the_value_of_its_last_row(tmp_path):
    rows = [{"step": 1, "a": 1.5, "b": 2.5}, {"step": 2, "a": 3.5}, {"step": 3, "c": "nan"}]
    found = LastValues(metrics(tmp_path / "metrics.csv", rows))
    assert list(found.names) == ["a", "b", "c"]
    assert (found.of("a"), found.of("b"), found.of("d")) == (3.5, 2.5, None)
    assert math.isnan(found.of("c"))
    assert found.several(["b", "a", "x"]) == {"b": 2.5, "a": 3.5}


@pytest.mark.parametrize("num_rows", [1, 700, 6000])
def test_a_value_far_from_the_end_is_found(tmp_path, num_rows):
    rows = [{"step": -1, "early": 7.5}, *({"step": n, "often": n} for n in range(num_rows))]
    found = LastValues(metrics(tmp_path / "metrics.csv", rows))
    assert (found.of("early"), found.of("often")) == (7.5, num_rows - 1)


def test_only_the_end_is_read_if_the_value_is_there(tmp_path, monkeypatch):
    path = metrics(tmp_path / "metrics.csv", [{"step": n, "often": n} for n in range(6000)])
    monkeypatch.setattr(last_values, "_MOST_BYTES", last_values._FIRST_BYTES)
    assert LastValues(path).of("often") == 5999


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("step,a\n1,0.25\n2,0.7", 0.25),  # the end of a kill: half a number is a number
        ("step,a\n1,0.25\n2,0.7,9\n3\n", 0.25),  # damaged rows
        ("step,a\n1,0.25\n2,x\n", None),
        ("step,a\n", None),
        ("step,a", None),
        ("", None),
        ('step,"a\nb",a\n1,2,0.25\n', 0.25),
        ("\ufeffstep,a\r\n1,0.25\r\n", 0.25),
        ('step,a\n1,"0.25\n2,3\n', 3.0),
    ],
)
def test_a_damaged_file_gives_what_is_complete(tmp_path, text, value):
    path = tmp_path / "metrics.csv"
    path.write_text(text, newline="")
    assert LastValues(path).of("a") == value


def test_a_missing_file_and_a_directory_have_no_values(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        assert list(LastValues(path).names) == []
        assert LastValues(path).of("a") is None
