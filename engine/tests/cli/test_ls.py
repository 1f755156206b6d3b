"""`cairn ls`: a row per checkpoint, for people and for programs; and how a run or a directory may be named."""

import json

import pytest
from tests.support.cli import cairn, config
from tests.support.values import names_of

from cairn.cli import output
from cairn.run.directory import RunDirectory
from cairn.store import names
from cairn.store.catalog import Catalog


def test_each_checkpoint_has_a_row(run, capsys):
    cairn("ls", run.path)
    lines = capsys.readouterr().out.splitlines()
    (header,) = [line.split() for line in lines if "epoch" in line]
    assert header == [
        "epoch",
        "batch",
        "step",
        "saved",
        "because",
        "val/loss",
        "val/acc",
        "size",
        "age",
        "pause",
        "link",
    ]
    rows = [line.split() for line in lines if line.strip().startswith("0 ")]
    assert [row[1] for row in rows] == ["1", "2", "3", "4"]
    assert rows[1][3:7] == ["interval,", "best", "0.3", "0.9"]
    assert [row[-1] for row in rows] == ["s", "best", "s", "last"]
    text = "\n".join(lines)
    assert "4 checkpoints, " in text
    assert "logs/train/runs/one: stopped (SIGTERM)" in text
    assert "resume: python train.py resume=logs/train/runs/one" in text


def test_a_long_table_has_the_same_cells(run, capsys, monkeypatch):
    cairn("ls", run.path)
    short = capsys.readouterr().out
    monkeypatch.setattr(output, "LONG_ROWS", 3)
    cairn("ls", run.path)
    long = capsys.readouterr().out
    lines = [line.strip(" ─") for line in short.splitlines()]
    assert [line.split() for line in lines if line] == [line.split() for line in long.splitlines()]
    starts = {line.index("saved because" if "saved because" in line else "interval") for line in long.splitlines()[1:6]}
    assert len(starts) == 1, "columns are aligned"


def test_the_table_fits_a_narrow_terminal(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cairn("ls", run.path)
    output = capsys.readouterr().out
    assert "…" not in output
    assert max(len(line) for line in output.splitlines()) <= 80


def test_json_has_everything_that_the_manifests_have(run, capsys):
    cairn("ls", run.path, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["status"], found["rejected"]) == (str(run.path), "stopped", [])
    items = Catalog(run.checkpoints()).committed()
    assert [item["name"] for item in found["checkpoints"]] == names_of(items)
    assert [item["digest"] for item in found["checkpoints"]] == [item.digest for item in items]
    assert [item["best"] for item in found["checkpoints"]] == [False, True, False, False]
    assert [item["last"] for item in found["checkpoints"]] == [False, False, False, True]


@pytest.mark.parametrize("named", ["latest", "logs/train/runs/one", "logs/train/runs/one/checkpoints"])
def test_a_run_can_be_named_in_several_ways(run, named, capsys):
    cairn("ls", named, "--json")
    assert json.loads(capsys.readouterr().out)["run"] == str(run.path)


def test_a_directory_with_checkpoints_and_no_run_can_be_listed(run, tmp_path, capsys):
    run.checkpoints().rename(tmp_path / "elsewhere")
    cairn("ls", "elsewhere")
    assert "4 checkpoints" in capsys.readouterr().out


def test_checkpoints_may_be_outside_of_the_run_directory(run, tmp_path, capsys):
    moved = run.checkpoints().rename(tmp_path / "elsewhere")
    run.checkpoints().mkdir()  # a stray one does not hide them
    run.config_file.write_text(config(run, moved))
    cairn("ls", run.path)
    assert "4 checkpoints" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_used_is_named(run, capsys):
    (run.checkpoints() / names.manifest_name(names_of(Catalog(run.checkpoints()).committed())[0])).unlink()
    cairn("ls", run.path)
    output = capsys.readouterr().out
    assert "not usable: epoch_000_batch_000001.ckpt, it has no manifest" in output
    assert "3 checkpoints" in output


def test_a_run_without_checkpoints_can_be_listed(tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    run.start("train", (), config(run, run.path / "checkpoints", monitor="null"))
    cairn("ls", run.path)
    assert "0 checkpoints" in capsys.readouterr().out
    cairn("verify", run.path)
    assert "no checkpoint here yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ls", "verify", "prune"])
@pytest.mark.parametrize(
    ("named", "message"),
    [("gone", "There is no directory gone"), (".", "is neither a run"), ("latest", "There is no run below logs/")],
)
def test_a_name_that_is_not_a_run_is_one_sentence(tmp_path, name, named, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cairn(name, named, expect=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("content", [None, "", "a: [", "a: 1"])
def test_a_damaged_configuration_is_named(run, content, capsys):
    run.config_file.unlink() if content is None else run.config_file.write_text(content)
    cairn("ls", run.path, expect=1)
    assert "config.yaml cannot be read: " in capsys.readouterr().err
