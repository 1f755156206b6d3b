"""The tables of a search have a row for each rung, trial, stop and parameter."""

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.search import importance, reading, rows


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "find_spec", lambda name: None)  # the same figures with and without Optuna
    return lambda found: reading.read(search_directory(tmp_path, found, curves=False))


def test_each_rung_has_a_row(read):
    header, found = rows.rungs(read(made()))
    assert header == ["stop", "trials", "then", "best", "median", "cutoff", "batches"]
    assert [[*row[:3], row[-1]] for row in found] == [
        ["1ep", "9", "3 went on, 6 stopped", "135"],
        ["3ep", "3", "1 went on, 2 stopped", "90"],
        ["9ep", "1", "1 finished", "90"],
    ]
    assert found[2][-2] == "-"


def test_brackets_are_named_if_there_are_several(read):
    found = made()
    found["trials"][0] |= {"bracket": 1, "state": "paused"}
    found["trials"][1] |= {"bracket": 1, "state": "failed"}
    header, body = rows.rungs(read(found))
    assert header[0] == "bracket: stop"
    assert [row[:3] for row in body if row[0].startswith("1")] == [["1: 1ep", "2", "1 failed, 1 wait"]]


def test_each_trial_has_a_row_the_best_first(read):
    header, found = rows.trials(read(made()))
    assert header == ["rank", "trial", "val/loss", "at", "place", "state", "lr", "dropout", "model"]
    assert [row[3] for row in found] == ["9ep", "3ep", "3ep", *["1ep"] * 6]
    assert [row[4] for row in found[:4]] == ["1/1", "2/3", "3/3", "4/9"]
    assert [row[5] for row in found[:2]] == ["finished", "stopped"]
    header, folded = rows.trials(read(made()), is_folded=True)
    assert header[-1] == "parameters"
    assert folded[0][-1] == f"lr={found[0][6]} dropout={found[0][7]} model={found[0][8]}"


def test_a_trial_without_a_rung_and_a_parameter_without_a_value(read):
    found = made()
    found["trials"][0] |= {"rungs": [], "state": "failed", "parameters": {"model": "mlp"}}
    _, body = rows.trials(read(found))
    assert body[-1] == ["9", "0", "-", "-", "-", "failed", "", "", "mlp"]


def test_stops_are_listed_by_time(read):
    header, found = rows.stops(read(made()))
    assert header == ["time", "trial", "at", "score", "place", "batches", "state"]
    assert [row[0] for row in found] == sorted(row[0] for row in found)
    assert found[-1][0] == "2026-01-01 00:13:00"
    assert found[-1][4:] == ["1/1", "135", "finished"]


def test_each_parameter_has_a_row_with_where_the_best_lie(read):
    found = rows.parameters(read(made(40)))
    assert found[0][0] == "lr"
    assert found[0][3] == "0.0001 to 0.1, log"
    low, high = (float(text) for text in found[0][4].split(" to "))
    assert 0.001 < low < 0.01 < high < 0.1
    assert all(len(row) == len(rows.IMPORTANCE_HEADER) for row in found)
    assert rows.parameters(read(made(2))) == []
