"""A run that hangs names the rank that the others wait for."""

import json

import pytest

from cairn.store import hang_reports, names
from cairn.store.hang_reports import Report, name_ranks
from cairn.types import Position

WAITS, STANDS = "all_reduce (c10d.py:7)", "training_step (model.py:40)"


def report(rank, place=WAITS, batch=5, host=""):
    return Report(rank, host or f"node{rank // 2}", Position(1, batch, 20 + batch), place)


def told(directory, reports, num_ranks):
    for item in reports:
        hang_reports.put(directory, item)
    return hang_reports.words(hang_reports.wait(directory, num_ranks, 0), num_ranks)


def test_a_rank_that_does_not_answer_is_named(tmp_path):
    assert told(tmp_path, [report(0), report(1), report(3)], 4) == (
        "Rank 2 does not answer. It is stopped, dead, on a node that is lost, or inside of C code that holds Python's "
        "lock.\n"
        "Ranks 0-1, 3 on node0, node1: after epoch 1, batch 5, in all_reduce (c10d.py:7).\n"
    )


def test_a_rank_that_is_elsewhere_comes_first(tmp_path):
    assert told(tmp_path, [report(0), report(1), report(2, STANDS, 4)], 3) == (
        "Rank 2 on node1: after epoch 1, batch 4, in training_step (model.py:40).\n"
        "Ranks 0-1 on node0: after epoch 1, batch 5, in all_reduce (c10d.py:7).\n"
    )


def test_several_ranks_that_do_not_answer(tmp_path):
    assert told(tmp_path, [report(0)], 3).startswith("Ranks 1-2 do not answer. They are stopped")


@pytest.mark.parametrize("text", ["", "{", '{"rank": 1}', json.dumps({"rank": "one"})])
def test_half_a_report_is_none(tmp_path, text):
    (tmp_path / names.hang_name(1)).write_text(text)
    assert hang_reports.wait(tmp_path, 2, 0) == {}


def test_reports_are_temporary_files_and_each_rank_removes_its_own(tmp_path):
    hang_reports.put(tmp_path, report(3))
    assert [names.is_temp(path.name) for path in tmp_path.iterdir()] == [True]
    hang_reports.remove(tmp_path, 2)
    assert hang_reports.wait(tmp_path, 4, 0) == {3: report(3)}
    hang_reports.remove(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_late_report_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(hang_reports.time, "sleep", lambda _: hang_reports.put(tmp_path, report(0)))
    assert hang_reports.wait(tmp_path, 1, 60) == {0: report(0)}


def test_ranks_are_named_in_ranges():
    assert name_ranks([3]) == "rank 3"
    assert name_ranks([0, 1, 2, 5, 7, 8]) == "ranks 0-2, 5, 7-8"


def test_a_rank_that_hangs_calls_the_others_of_its_attempt(tmp_path):
    assert not hang_reports.is_called(tmp_path, "a1")
    hang_reports.call(tmp_path, "a1")
    hang_reports.call(tmp_path, "a1")
    assert hang_reports.is_called(tmp_path, "a1")
    assert not hang_reports.is_called(tmp_path, "b2"), "the next attempt does not hang"


def test_a_hang_is_noted_once_in_an_attempt(tmp_path):
    assert [hang_reports.claim(tmp_path, attempt) for attempt in ("a1", "a1", "b2")] == [True, False, True]
    assert hang_reports.claim(tmp_path / "gone", "a1"), "rather twice than never"
    assert all(names.is_temp(path.name) for path in tmp_path.iterdir())
