"""`cairn runs` and `cairn diff`."""

import csv
import io
import json

import pytest
from tests.support.cli import cairn
from tests.support.listed_runs import make

from cairn.cli import run_names


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"step": 1, "val/loss": 0.5, "test/loss": 0.125}]
    sweep = tmp_path / "logs" / "train" / "multiruns" / "2026-11-02_00-00-00"
    job = sweep / "model.optimizer.lr=0.001,model.net.dropout=0.5,model.net.channels=[16,32,64],trainer.max_epochs=100"
    make(job, rows=rows, score=0.25, provenance={"git": "a" * 40, "torch": "2.13.0"})
    other = tmp_path / "logs" / "train" / "runs" / "2026-11-01_00-00-00"
    changed = {"seed": 1, "tags": ["[b]", "\x1b[31m"]}
    make(other, created="2026-10-01T00:00:00+00:00", config=changed, status="failed", why="NaN")
    return tmp_path / "logs"


def printed(capsys, *argv, expect=0):
    cairn(*argv, expect=expect)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120, 200])
def test_each_line_fits_the_terminal_and_the_path_can_be_put_together(logs, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = printed(capsys, "runs").splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "train/runs/2026-11-01_00-00-00" in text
    assert "2 runs: 1 finished, 1 failed." in text
    assert ("\\x1b[31m" in text) is (width > 80)
    assert ("A wider terminal also shows" in text) is (width == 80)
    assert "best: val/loss of the best checkpoint" in text
    job = next((logs / "train" / "multiruns").glob("*/*")).relative_to(logs).as_posix()
    assert job in "".join(line.strip().split("  ")[0] for line in lines)


def test_columns_filters_and_what_is_left_out_are_shown(logs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = printed(capsys, "runs", "logs", "--columns", "task,seed", "--columns", "status", "--filter", "seed=1")
    words = [word for word in text.split() if word[0] != "─"]
    assert words[:7] == ["logs", "task", "seed", "status", "train", "1", "failed"]
    assert "1 run: 1 failed. 1 more, left out by --filter." in text
    assert "0 runs. 2 more, left out by --filter." in printed(capsys, "runs", "--filter", "seed=7")
    assert "left out by --limit" in printed(capsys, "runs", "--limit", "1")


def test_json_and_csv_hold_the_same_values(logs, capsys):
    rows = json.loads(printed(capsys, "runs", "--json", "--columns", "+seed,+val/loss"))
    assert [row["seed"] for row in rows] == [0, 1]
    table = list(csv.DictReader(io.StringIO(printed(capsys, "runs", "--csv", "--columns", "+seed,+val/loss"))))
    assert [list(row) for row in table] == [list(row) for row in rows]
    assert [row["val/loss"] for row in table] == ["0.5", ""]
    assert [row["best"] for row in table] == ["0.25", ""]
    cairn("runs", "--json", "--csv", expect=1)


def test_json_is_valid_if_a_training_diverged(logs, capsys):
    make(logs / "x", rows=[{"step": 1, "test/loss": "nan"}])
    (row,) = json.loads(printed(capsys, "runs", "logs/x", "--json"), parse_constant=pytest.fail)
    assert row["test"] == "nan"


def test_a_damaged_run_is_a_row_and_a_sentence(logs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    (logs / "foreign").mkdir()
    (logs / "foreign" / "run.json").write_text("[1]")
    text = printed(capsys, "runs")
    assert "unreadable" in text
    assert "not readable: foreign, run.json is not the record of a run" in text


def test_without_runs_a_sentence_says_how_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cairn("runs", expect=1)
    assert "logs does not exist" in capsys.readouterr().err
    (tmp_path / "logs").mkdir()
    assert "There is no run below logs. Train one: python train.py" in printed(capsys, "runs")
    assert json.loads(printed(capsys, "runs", "--json")) == []
    cairn("runs", "s3://bucket/run", expect=1)
    assert "cairn runs reads the disk" in capsys.readouterr().err


def test_many_runs_are_printed_one_per_line(logs, capsys, monkeypatch):
    from cairn.cli import output, runs_table

    monkeypatch.setattr(output, "LONG_ROWS", 1)
    monkeypatch.setattr(runs_table, "LONG_ROWS", 1)
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(capsys, "runs").splitlines()
    assert sum("multiruns" in line for line in lines) == 1


def test_jobs_of_a_sweep_stand_below_its_directory():
    sweep = "t/multiruns/1"
    jobs = [f"{sweep}/lr={lr},sizes=[{lr},2],epochs=3" for lr in (1, 2)]
    found = run_names.grouped(["t/runs/1", *jobs, "x/lr=1", "y/lr=1", "y/lr=1,a=2"])
    assert [(item.text, item.above) for item in found] == [
        ("t/runs/1", ()),
        ("  lr=1,sizes=[1,2]", ("t/multiruns/1/", "  each with epochs=3")),
        ("  lr=2,sizes=[2,2]", ()),
        ("x/lr=1", ()),
        ("  lr=1", ("y/", "  each with lr=1")),
        ("  a=2", ()),
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a/b", ["a/b"]),
        ("abc/defg,hi", ["abc/", "defg,hi"]),
        ("  abc,def", ["  abc,", "  def"]),
        ("x" * 9, ["x" * 8, "x"]),
    ],
)
def test_a_long_name_is_broken_where_it_has_parts(text, lines):
    assert run_names.folded(text, 8) == "\n".join(lines)


def test_diff_names_what_differs(logs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    first, second = next((logs / "train" / "multiruns").glob("*/*")), logs / "train" / "runs" / "2026-11-01_00-00-00"
    text = printed(capsys, "diff", first, second)
    for part in ("seed", "tags", "status", "val/loss", "Code: not known of B"):
        assert part in text
    found = json.loads(printed(capsys, "diff", first, second, "--json"))
    assert found["config"]["seed"] == {"first": 0, "second": 1}
    assert found["result"]["val/loss"] == {"first": 0.5}
    assert found["code"] == {"first": "a" * 40, "second": ""}
    text = printed(capsys, "diff", first, first)
    assert "Nothing differs" in text
    assert "Code: the same commit aaaaaaaaaaaa." in text
    cairn("diff", first, logs, expect=1)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("a" * 40, "b" * 40, "Code: aaaaaaaaaaaa and bbbbbbbbbbbb. To see it: git diff aaaaaaaaaaaa bbbbbbbbbbbb"),
        (
            "a" * 40 + "+",
            "a" * 40,
            "the same commit aaaaaaaaaaaa, with uncommitted changes in A, which are not recorded",
        ),
        ("", "", "not known of A and B: neither a start nor a checkpoint names a commit"),
    ],
)
def test_the_code_in_words(first, second, said):
    from cairn.cli.diff import code_words

    assert said in code_words(first, second)
