"""`cairn report`: table, sentences, page and figures of a sweep."""

import json

import pytest
from tests.support.cli import cairn
from tests.support.made_runs import end, run_directory
from tests.support.made_searches import record, search_directory


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


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """A search with a finished trial."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return search_directory(tmp_path / "search", record(27, (1, 3, 9, 27)))


def test_a_search_has_its_trials_what_was_saved_and_a_page(searched, capsys):
    cairn("report", "search")
    output = capsys.readouterr().out
    assert "27 trials: 1 finished, 26 stopped." in output
    assert "89 % was saved" in " ".join(output.split())
    assert "7 more trials: see the page." in output
    assert output.endswith("page: search/report/index.html\n")
    assert max(map(len, output.splitlines())) <= 80
    names = {"index.html", "curves.png", "trials.png", "importance.png", "parameters.png"}
    assert {path.name for path in (searched / "report").iterdir()} == names
    assert (searched / "report" / "index.html").read_text().count("data:image/png;base64,") == 4


def test_the_figures_of_a_search_are_json(searched, capsys):
    cairn("report", "search", "--json")
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 27
    assert not (searched / "report").exists()


def test_what_saving_costs_in_a_search_has_an_option(searched, capsys):
    cairn("report", "search", "--mtbf", "8h", expect=1)
    assert "add --saving" in capsys.readouterr().err
    run_directory(searched, 100)
    cairn("report", "search", "--saving", "--mtbf", "8h", "--json")
    assert json.loads(capsys.readouterr().out)["mtbf_s"] == 8 * 3600


def test_latest_is_the_search_of_the_newest_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = search_directory(tmp_path / "logs" / "train" / "multiruns" / "now", record())
    run_directory(found, 100)
    (tmp_path / "sweep.json").touch()  # outside of logs/
    cairn("report", "latest", "--json")
    assert json.loads(capsys.readouterr().out)["search"] == str(found)


def test_a_search_that_cannot_be_read_is_one_sentence(searched, capsys):
    (searched / "sweep.json").write_text("{")
    cairn("report", "search", expect=1)
    assert "sweep.json is not the record of a search" in capsys.readouterr().err
