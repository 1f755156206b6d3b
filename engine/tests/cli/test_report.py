"""`cairn report`: table, sentences, page and figures of a sweep."""

import json

import pytest
from tests.support.cli import cairn
from tests.support.made_runs import end, run_directory


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Two runs, one of which was killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    run_directory(tmp_path / "sweep", 100, ends=[end(370, 300, 100)])
    run_directory(tmp_path / "sweep", 400)
    return tmp_path / "sweep"


def test_a_sweep_has_a_table_a_choice_and_a_page(swept, capsys):
    cairn("report", "sweep")
    output = capsys.readouterr().out
    assert "Choose checkpoint.save_interval=" in " ".join(output.split())
    assert output.endswith("page: sweep/report/index.html\n")
    assert max(map(len, output.splitlines())) <= 80
    assert {path.name for path in (swept / "report").iterdir()} == {"index.html", "runs.png", "loss.png", "kills.png"}


def test_a_single_run_can_be_reported_to_another_directory(swept, capsys):
    (run,) = swept.glob("*=400*")
    cairn("report", run, "--out", "there", "--mtbf", "2h")
    output = capsys.readouterr().out
    assert "Mean time between failures: 2 h, as given." in output
    assert output.endswith("page: there/index.html\n")
    assert not (run / "report").exists()


def test_json_draws_nothing(swept, capsys):
    cairn("report", swept, "--json", "--mtbf", "8h")
    found = json.loads(capsys.readouterr().out)
    assert [run["num_saves"] for run in found["runs"]] == [10, 2]
    assert found["mtbf_s"] == 8 * 3600
    assert not (swept / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone does not exist: name the directory of a sweep"),
        (["."], "There is no run in"),
        (["sweep", "--mtbf", "often"], "Invalid duration --mtbf='often'"),
        (["sweep", "--mtbf", "0"], "--mtbf=0: the mean time between failures must be"),
        (["sweep", "--out", "file"], "The report cannot be written to"),
        (["latest"], "there is no run below logs"),
    ],
)
def test_a_report_that_is_impossible_is_one_sentence(swept, tmp_path, monkeypatch, arguments, message, capsys):
    if arguments == ["."]:
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
    (tmp_path / "file").touch()
    cairn("report", *arguments, expect=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert message in captured.err
