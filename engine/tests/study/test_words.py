"""Tables and sentences of the report."""

import io
import json

import pytest
from rich.console import Console
from tests.support.made_runs import SAVE_BYTES, end, run_directory

from cairn.study import choice, reading, words
from cairn.units import format_bytes

ENDS = [end(370, 300, 100), end(500, 500, 100, "stopped", "SIGTERM")]


@pytest.fixture
def folder(tmp_path):
    run_directory(tmp_path / "sweep", 100, ends=ENDS)
    run_directory(tmp_path / "sweep", 400)
    return tmp_path / "sweep"


def study(folder, mtbf_s=None):
    return choice.study(reading.read(folder), mtbf_s)


def test_each_run_has_a_row(folder):
    found = study(folder)
    held = format_bytes(found.sweep.runs[0].held_bytes)
    assert words.header(found) == [*words.HEADER, "val/loss"]
    first, second = words.rows(found)
    assert first[:6] == ["100", "10", "2 %", "50 ms", format_bytes(10 * SAVE_BYTES), held]
    assert first[7:] == ["7.2 s (1)", "0.25"]
    assert second[:4] == ["400", "2", "few saves", "50 ms"], "no number that says nothing"
    assert second[7] == "0 s"
    assert set(words.HEADER_LONG) == set(words.HEADER)


def test_each_interruption_has_a_row(folder):
    first, second = words.end_rows(study(folder))
    assert first == ["100", "killed", "370", "300", "70", "7.2 s"]
    assert second == ["100", "asked to stop (SIGTERM)", "500", "500", "0", "0 s"]


def test_an_extended_run_is_shown_as_finished_before(tmp_path):
    run_directory(tmp_path, 100, ends=[end(300, 300, 100, "finished"), end(600, 600, 100, "stopped", "SIGINT")])
    assert [row[1] for row in words.end_rows(study(tmp_path))] == ["finished, extended", "stopped on purpose (SIGINT)"]


def test_the_conclusion_with_measured_failures(folder):
    cost, failures, choice = words.conclusion(study(folder))
    assert cost.startswith("A save costs the training 200 ms (50 ms paused and 150 ms by slower batches; 10 saves)")
    assert "from 1 end without notice in " in failures
    assert "(1 announced stop not counted, because a run saves before it stops)" in failures
    assert "its relative error is about 100 %" in failures
    assert choice.startswith("Choose checkpoint.save_interval=")
    assert "Young's formula gives " in choice
    assert "Daly's " in choice


def test_the_conclusion_with_a_given_time(folder):
    _, failures, choice = words.conclusion(study(folder, 8 * 3600.0))
    assert failures == "Mean time between failures: 8 h, as given."
    assert choice.startswith("Choose checkpoint.save_interval=1100: a save every 110 s of training.")


def test_without_failures_the_intervals_are_a_table(tmp_path):
    run_directory(tmp_path, 100)
    found = study(tmp_path)
    assert (
        "is unknown: the table shows intervals for typical values. Set yours: --mtbf 8h." in words.conclusion(found)[-1]
    )
    assert [row[0] for row in words.advice_rows(found)] == ["1 h", "4 h", "8 h", "24 h", "7 d"]


def test_without_a_record_of_attempts_no_failure_rate_is_claimed(tmp_path):
    (run_directory(tmp_path, 100) / "starts.jsonl").unlink()
    assert words.conclusion(study(tmp_path))[1].startswith("No run has a record of its attempts, so the mean")


def test_figures_in_doubt_are_listed(folder):
    notes = " ".join(words.notes(study(folder)))
    assert "With interval 400: fewer than 3 saves" in notes
    assert "The best metric is the same in all runs, as it should be" in notes
    assert "rough estimate" not in notes


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda run: (run / "csv" / "checkpoints.csv").unlink(), "only the kept checkpoints are known"),
        (lambda run: (run / "starts.jsonl").unlink(), "no starts.jsonl, so work that was lost"),
        (lambda run: (run / "csv" / "metrics.csv").write_text("val/loss\n0.1\n"), "The best metric differs"),
        (lambda run: (run / "run.json").write_text('{"status": "running"}'), "still training, or killed"),
    ],
)
def test_missing_figures_are_listed(folder, damage, expected):
    assert expected not in " ".join(words.notes(study(folder)))
    damage(folder / "checkpoint.save_interval=100,checkpoint=interval")
    assert expected in " ".join(words.notes(study(folder)))


def test_runs_that_save_equally_often_are_listed(tmp_path):
    for name in ("a", "b"):
        run_directory(tmp_path / name, 100)
    assert "they do not show what other intervals cost" in " ".join(words.notes(study(tmp_path)))


def test_short_runs_give_a_rough_estimate(tmp_path):
    run_directory(tmp_path, 2, 10)
    found = study(tmp_path)
    assert words.rows(found)[0][2] == "too short"
    assert words.conclusion(found)[0].startswith("A save costs the training roughly ")
    assert "a rough estimate" in " ".join(words.notes(found))


def test_a_run_without_saves_gives_no_conclusion(tmp_path):
    run_directory(tmp_path, 2000)
    found = study(tmp_path)
    assert words.rows(found)[0][1:6] == ["0", "-", "-", "0 B", "0 B"]
    assert words.conclusion(found)[0] == "The cost of a save is unknown: no run has measured one."


def test_the_tables_fit_a_narrow_terminal(folder):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    for part in words.terminal(study(folder)):
        console.print(part)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in console.file.getvalue()
    (header,) = [line.split() for line in lines if "overhead" in line and "every" in line]
    assert header == ["every", "saves", "overhead", "stall", "written", "held", "at", "risk", "lost", "val/loss"]


def test_the_figures_are_valid_json(folder):
    found = json.loads(json.dumps(words.figures(study(folder)), allow_nan=False))
    first, second = found["runs"]
    assert (first["num_saves"], first["doubt"], second["doubt"]) == (10, None, "few saves")
    assert first["ends"][0]["lost_s"] == pytest.approx(7.2)
    assert (found["failures"]["killed"], found["failures"]["announced"]) == (1, 1)
    assert found["cost"]["save_s"] == pytest.approx(0.2)
    assert len(found["advice"]) == 1


def test_a_sentence_names_a_few_of_many_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "_MOST_NAMED", 2)
    for interval in (400, 500, 600):
        run_directory(tmp_path, interval)
    (sentence,) = [text for text in words.notes(study(tmp_path)) if "few" in text]
    assert sentence.startswith("With intervals 400, 500, and 1 more: fewer than")
