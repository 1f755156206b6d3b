"""`python -m cairn`: what it prints for people and for machines, what it deletes, and its exit codes."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.made_runs import end, run_directory
from tests.support.values import commit, flip_byte, names_of

from cairn.cli import main
from cairn.jobs import slurm
from cairn.runs.directory import RunDirectory
from cairn.runs.ledger import Entry, Ledger
from cairn.store import names
from cairn.store.catalog import Catalog
from cairn.store.commit import settle
from cairn.wandb import sync as wandb_sync
from cairn.wandb.deleted import Deleted

SCORES = [0.5, 0.3, None, 0.4]


def settings(run, folder, monitor="val/loss"):
    """What the commands read of a run's config.yaml."""
    group = f"checkpoint: {{dirpath: {folder}, monitor: {monitor}, mode: min}}"
    return f"{group}\npaths: {{output_dir: {run.path}}}\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with four checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    run = RunDirectory(tmp_path / "logs" / "train" / "runs" / "one")
    folder = run.path / "checkpoints"
    run.start("train", (), settings(run, folder))
    run.end("stopped", "SIGTERM")
    for number, score in enumerate(SCORES):
        metrics = {"val/loss": score or 0.3, "val/acc": 0.9, "train/loss": 0.1}
        item = commit(folder, number, score, metrics=metrics, reasons=("interval", "best") if score else ("interval",))
    settle(folder, {names.LAST: item.name, names.BEST: Catalog(folder).committed()[1].name}, ())
    run.folder = folder
    return run


def command(*args, expect=0):
    assert main.main([str(arg) for arg in args]) == expect


def left(run):
    return [item.number for item in Catalog(run.folder).committed()]


# ls


def test_ls_has_a_row_per_checkpoint(run, capsys):
    command("ls", run.path)
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
    assert [row[-1] for row in rows] == ["ms", "best", "ms", "last"]
    text = "\n".join(lines)
    assert "4 checkpoints, " in text
    assert "logs/train/runs/one: stopped (SIGTERM)" in text
    assert "go on: python train.py resume=logs/train/runs/one" in text


def test_ls_fits_a_narrow_terminal(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command("ls", run.path)
    output = capsys.readouterr().out
    assert "…" not in output
    assert max(len(line) for line in output.splitlines()) <= 80


def test_ls_for_machines_has_all_that_the_manifests_have(run, capsys):
    command("ls", run.path, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["status"], found["rejected"]) == (str(run.path), "stopped", [])
    items = Catalog(run.folder).committed()
    assert [item["name"] for item in found["checkpoints"]] == names_of(items)
    assert [item["digest"] for item in found["checkpoints"]] == [item.digest for item in items]
    assert [item["best"] for item in found["checkpoints"]] == [False, True, False, False]
    assert [item["last"] for item in found["checkpoints"]] == [False, False, False, True]


@pytest.mark.parametrize("named", ["latest", "logs/train/runs/one", "logs/train/runs/one/checkpoints"])
def test_a_run_can_be_named_in_several_ways(run, named, capsys):
    command("ls", named, "--json")
    assert json.loads(capsys.readouterr().out)["run"] == str(run.path)


def test_a_folder_with_checkpoints_alone_can_be_listed(run, tmp_path, capsys):
    run.folder.rename(tmp_path / "elsewhere")
    command("ls", "elsewhere")
    assert "4 checkpoints" in capsys.readouterr().out


def test_checkpoints_may_lie_elsewhere(run, tmp_path, capsys):
    moved = run.folder.rename(tmp_path / "elsewhere")
    run.folder.mkdir()  # a stray one does not hide them
    run.config_file.write_text(settings(run, moved))
    command("ls", run.path)
    assert "4 checkpoints" in capsys.readouterr().out


def test_ls_tells_what_cannot_be_used(run, capsys):
    (run.folder / names.manifest_name(names_of(Catalog(run.folder).committed())[0])).unlink()
    command("ls", run.path)
    output = capsys.readouterr().out
    assert "not usable: epoch_000_batch_000001.ckpt, it has no manifest" in output
    assert "3 checkpoints" in output


def test_a_run_without_checkpoints_can_be_listed(tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    run.start("train", (), settings(run, run.path / "checkpoints", monitor="null"))
    command("ls", run.path)
    assert "0 checkpoints" in capsys.readouterr().out
    command("verify", run.path)
    assert "no checkpoint here yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ls", "verify", "prune"])
@pytest.mark.parametrize(
    ("named", "told"),
    [("gone", "There is no directory gone"), (".", "is neither a run"), ("latest", "There is no directory latest")],
)
def test_what_is_no_run_is_told_in_a_sentence(tmp_path, name, named, told, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command(name, named, expect=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1


# verify


def test_verify_of_a_whole_run(run, capsys):
    command("verify", run.path)
    output = capsys.readouterr().out
    assert output.count("whole") == 6
    assert "broken" not in output


@pytest.mark.parametrize("as_json", [False, True])
def test_verify_fails_if_one_byte_is_another(run, as_json, capsys):
    broken = Catalog(run.folder).committed()[1]
    flip_byte(run.folder, broken.name)
    command("verify", run.path, *["--json"] * as_json, expect=1)
    output = capsys.readouterr().out
    if as_json:
        assert {item["state"] for item in json.loads(output)} == {"whole", "broken"}
    else:
        found = [line.split()[1] for line in output.splitlines() if line.startswith("broken")]
        assert found == [broken.name, names.BEST], "and the link to it"
    command("verify", run.folder / broken.name, expect=1)
    command("verify", run.folder / names.BEST, expect=1)
    command("verify", run.folder / names.LAST)


def test_verify_of_no_file_is_told(run, capsys):
    command("verify", run.folder / "gone.ckpt", expect=1)
    assert "There is no" in capsys.readouterr().err


# prune


def test_prune_keeps_the_newest_and_the_best(run, capsys):
    command("prune", run.path, "--yes")
    assert left(run) == [1, 3]
    assert {path.name for path in run.folder.iterdir() if path.is_symlink()} == {names.LAST, names.BEST}
    assert all(path.exists() for path in run.folder.iterdir())
    assert "Deleted 2, " in capsys.readouterr().out
    command("verify", run.path)


@pytest.mark.parametrize("has_wandb", [True, False])
def test_what_prune_deletes_wandb_takes_back_later(run, has_wandb):
    if has_wandb:
        (run.path / "wandb").mkdir()
    before = {item.name: item.digest for item in Catalog(run.folder).committed()}
    command("prune", run.path, "--yes")
    gone = set(before) - {item.name for item in Catalog(run.folder).committed()}
    assert gone
    assert Deleted(run.path / "wandb").digests() == ({before[name] for name in gone} if has_wandb else set())
    assert (run.path / "wandb").exists() == has_wandb


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--keep-last", "2"], [1, 2, 3]),
        (["--keep-best", "2"], [1, 3]),
        (["--keep-best", "3"], [0, 1, 3]),
        (["--keep-last", "-1"], [0, 1, 2, 3]),
        (["--keep-last", "0", "--keep-best", "0"], [1, 3]),
    ],
)
def test_prune_keeps_as_many_as_it_is_told(run, options, kept):
    command("prune", run.path, "--yes", *options)
    assert left(run) == kept


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "kept"), [("y", [1, 3]), ("yes", [1, 3]), ("", [0, 1, 2, 3]), ("n", [0, 1, 2, 3])])
def test_prune_asks_first(run, answer, kept, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal(answer + "\n"))
    command("prune", run.path)
    output = capsys.readouterr().out
    assert "delete  epoch_000_batch_000001.ckpt" in output
    assert "keep    epoch_000_batch_000004.ckpt" in output
    assert left(run) == kept


def test_prune_deletes_nothing_if_nobody_can_be_asked(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    command("prune", run.path, expect=1)
    assert "Give --yes" in capsys.readouterr().err
    assert left(run) == [0, 1, 2, 3]


def test_prune_for_machines_only_tells_until_it_is_told_yes(run, capsys):
    command("prune", run.path, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["would_delete"] == ["epoch_000_batch_000001.ckpt", "epoch_000_batch_000003.ckpt"]
    assert left(run) == [0, 1, 2, 3]
    command("prune", run.path, "--json", "--yes")
    done = json.loads(capsys.readouterr().out)
    assert done["deleted"] == told["would_delete"]
    assert done["freed_bytes"] > 0
    assert left(run) == [1, 3]


def test_prune_counts_only_what_is_whole_and_leaves_the_rest_alone(run, capsys):
    broken = Catalog(run.folder).committed()[-1].name
    flip_byte(run.folder, broken)
    command("prune", run.path, "--yes", "--keep-best", "0")
    assert f"broken  {broken}" in capsys.readouterr().out
    assert left(run) == [1, 2, 3]
    assert (run.folder / names.LAST).readlink() == Path("epoch_000_batch_000003.ckpt")


def test_prune_deletes_nothing_if_nothing_is_whole(run, capsys):
    for item in Catalog(run.folder).committed():
        flip_byte(run.folder, item.name)
    before = sorted(path.name for path in run.folder.iterdir())
    command("prune", run.path, "--yes", expect=1)
    assert "is whole: nothing was deleted" in capsys.readouterr().err
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_a_folder_in_a_run_is_not_the_run(run, tmp_path, capsys):
    backup = run.path / "backup"
    shutil.copytree(run.folder, backup, symlinks=True)
    flip_byte(backup, Catalog(backup).committed()[0].name)
    command("verify", backup, expect=1)
    command("prune", backup, "--yes", expect=1)
    assert left(run) == [0, 1, 2, 3]


def test_a_copy_of_a_run_is_not_the_run(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy", symlinks=True)
    command("prune", tmp_path / "copy", "--yes")
    assert left(run) == [0, 1, 2, 3]
    assert [item.number for item in Catalog(tmp_path / "copy" / "checkpoints").committed()] == [1, 3]


@pytest.mark.parametrize("content", [None, "", "a: [", "a: 1"])
def test_a_run_whose_config_is_damaged_is_told(run, content, capsys):
    run.config_file.unlink() if content is None else run.config_file.write_text(content)
    command("ls", run.path, expect=1)
    assert "config.yaml cannot be read: " in capsys.readouterr().err


def test_prune_clears_away_what_dead_writers_left(run):
    (run.folder / names.temp_name("epoch_000_batch_000009.ckpt")).write_text("half")
    command("prune", run.path, "--yes", "--keep-last", "-1")
    assert Catalog(run.folder).leftovers() == []


def test_prune_refuses_a_wrong_number(run, capsys):
    command("prune", run.path, "--yes", "--keep-last", "-2", expect=1)
    assert "--keep-last and --keep-best: count=-2" in capsys.readouterr().err


def test_prune_does_not_touch_a_run_that_is_training(run):
    hold = "import sys; from cairn.runs.directory import *"
    hold += "\nr = RunDirectory(Path(sys.argv[1])); r.lock(); print(); input()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        process.stdout.readline()
        command("prune", run.path, "--yes", expect=1)
        process.kill()
    assert left(run) == [0, 1, 2, 3]


def test_prune_needs_the_run(run, tmp_path, capsys):
    run.folder.rename(tmp_path / "elsewhere")
    command("prune", "elsewhere", "--yes", expect=1)
    assert "which says what is best: name the run" in capsys.readouterr().err


# show


def test_show_has_the_manifest(run, capsys):
    command("show", run.folder / names.BEST)
    output = capsys.readouterr().out
    assert "name: epoch_000_batch_000002.ckpt" in output
    assert "score: 0.3" in output


def test_show_for_machines(run, capsys):
    command("show", run.folder / names.LAST, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(run.folder / "epoch_000_batch_000004.ckpt")
    assert found["manifest"]["reasons"] == ["interval", "best"]
    assert found["config"] is None, "these small files hold none; see end_to_end/test_looking_after.py"


@pytest.mark.parametrize("name", ["gone.ckpt", "text.ckpt"])
def test_show_of_what_is_no_checkpoint_is_told(run, name, capsys):
    (run.folder / "text.ckpt").write_text("weights, honestly")
    command("show", run.folder / name, expect=1)
    assert name in capsys.readouterr().err


# report


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Two runs, one of which was killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    run_directory(tmp_path / "sweep", 100, ends=[end(370, 300, 100)])
    run_directory(tmp_path / "sweep", 400)
    return tmp_path / "sweep"


def test_report_has_a_table_a_choice_and_a_page(swept, capsys):
    command("report", "sweep")
    output = capsys.readouterr().out
    assert "Choose checkpoint.save_interval=" in " ".join(output.split())
    assert output.endswith("page: sweep/report/index.html\n")
    assert max(map(len, output.splitlines())) <= 80
    assert {path.name for path in (swept / "report").iterdir()} == {"index.html", "runs.png", "loss.png", "kills.png"}


def test_a_report_of_one_run_goes_where_it_is_told(swept, capsys):
    (run,) = swept.glob("*=400*")
    command("report", run, "--out", "there", "--mtbf", "2h")
    output = capsys.readouterr().out
    assert "Mean time between failures: 2 h, as given." in output
    assert output.endswith("page: there/index.html\n")
    assert not (run / "report").exists()


def test_report_for_machines_draws_nothing(swept, capsys):
    command("report", swept, "--json", "--mtbf", "8h")
    found = json.loads(capsys.readouterr().out)
    assert [run["num_saves"] for run in found["runs"]] == [10, 2]
    assert found["mtbf_s"] == 8 * 3600
    assert not (swept / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone"], "gone is not there: name the directory of a sweep"),
        (["."], "There is no run in"),
        (["sweep", "--mtbf", "often"], "--mtbf='often' is no time"),
        (["sweep", "--mtbf", "0"], "--mtbf=0: a time between failures"),
        (["sweep", "--out", "file"], "The report cannot be written to"),
        (["latest"], "there is no run below logs"),
    ],
)
def test_what_cannot_be_reported_is_told_in_a_sentence(swept, tmp_path, monkeypatch, arguments, told, capsys):
    if arguments == ["."]:
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
    (tmp_path / "file").touch()
    command("report", *arguments, expect=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert told in captured.err


# status


@pytest.mark.parametrize(("answers", "state", "code"), [(True, "failed", 1), (False, "unknown", 0)])
def test_status_takes_no_job_for_a_failure_that_nobody_can_tell_of(tmp_path, monkeypatch, capsys, answers, state, code):
    def queued():
        if not answers:
            raise slurm.SlurmError("no controller")
        return {}

    monkeypatch.setattr(slurm, "queued", queued)
    Ledger(tmp_path).add([Entry("waits", "slurm", "12")])
    command("status", tmp_path, expect=code)
    captured = capsys.readouterr()
    assert f"1 {state} of 1." in captured.out
    assert ("the scheduler does not answer (no controller)" in captured.err) is not answers
    command("status", tmp_path, "--json", expect=code)
    assert [job["state"] for job in json.loads(capsys.readouterr().out)] == [state]


# sync


@pytest.mark.parametrize(
    ("version", "has_history", "code", "told"),
    [
        ("v0", True, 0, "1 of 1 checkpoints of e/p/r; 7 rows of its history were sent."),
        ("", True, 1, "0 of 1 checkpoints of e/p/r; 7 rows of its history were sent."),
        ("v0", False, 1, "1 of 1 checkpoints of e/p/r; its history was not sent, or not all of it"),
    ],
)
def test_sync_says_what_wandb_has_and_no_more(run, monkeypatch, capsys, version, has_history, code, told):
    (saved, *_), limits = Catalog(run.folder).committed(), []

    def sync(directory, limit_s):
        limits.append(limit_s)
        return wandb_sync.Synced("e/p/r", 7, has_history, [(saved, version)])

    monkeypatch.setattr(wandb_sync, "sync", sync)
    command("sync", run.path, "--limit", "90s", expect=code)
    assert f"W&B has {told}" in capsys.readouterr().out
    command("sync", run.path, "--json", expect=code)
    found = json.loads(capsys.readouterr().out)
    assert (found["rows_sent"], found["history"], limits) == (7, has_history, [90.0, 3600.0])
