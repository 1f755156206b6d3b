"""`cairn prune`: what it deletes, what it never deletes, and that it asks first."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.cli import cairn, config, left
from tests.support.values import flip_byte

from cairn.store import claim, names
from cairn.store.catalog import Catalog
from cairn.trackers.deleted import Deleted


def test_the_newest_and_the_best_stay(run, capsys):
    cairn("prune", run.path, "--yes")
    assert left(run) == [1, 3]
    assert {path.name for path in run.checkpoints().iterdir() if path.is_symlink()} == {names.LAST, names.BEST}
    assert all(path.exists() for path in run.checkpoints().iterdir())
    assert "Deleted 2, " in capsys.readouterr().out
    cairn("verify", run.path)


@pytest.mark.parametrize("has_wandb", [True, False])
def test_deleted_checkpoints_are_recorded_for_wandb_if_the_run_uses_it(run, has_wandb):
    if has_wandb:
        (run.path / "wandb").mkdir()
    before = {item.name: item.digest for item in Catalog(run.checkpoints()).committed()}
    cairn("prune", run.path, "--yes")
    gone = set(before) - {item.name for item in Catalog(run.checkpoints()).committed()}
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
def test_the_options_say_how_many_stay(run, options, kept):
    cairn("prune", run.path, "--yes", *options)
    assert left(run) == kept


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "kept"), [("y", [1, 3]), ("yes", [1, 3]), ("", [0, 1, 2, 3]), ("n", [0, 1, 2, 3])])
def test_it_asks_first(run, answer, kept, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal(answer + "\n"))
    cairn("prune", run.path)
    output = capsys.readouterr().out
    assert "delete  epoch_000_batch_000001.ckpt" in output
    assert "keep    epoch_000_batch_000004.ckpt" in output
    assert left(run) == kept


def test_without_a_terminal_nothing_is_deleted(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    cairn("prune", run.path, expect=1)
    assert "Pass --yes" in capsys.readouterr().err
    assert left(run) == [0, 1, 2, 3]


def test_json_deletes_nothing_without_yes(run, capsys):
    cairn("prune", run.path, "--json")
    planned = json.loads(capsys.readouterr().out)
    assert planned["would_delete"] == ["epoch_000_batch_000001.ckpt", "epoch_000_batch_000003.ckpt"]
    assert left(run) == [0, 1, 2, 3]
    cairn("prune", run.path, "--json", "--yes")
    done = json.loads(capsys.readouterr().out)
    assert done["deleted"] == planned["would_delete"]
    assert done["freed_bytes"] > 0
    assert left(run) == [1, 3]


def test_broken_checkpoints_do_not_count_and_stay(run, capsys):
    broken = Catalog(run.checkpoints()).committed()[-1].name
    flip_byte(run.checkpoints(), broken)
    cairn("prune", run.path, "--yes", "--keep-best", "0")
    assert f"corrupt {broken}" in capsys.readouterr().out
    assert left(run) == [1, 2, 3]
    assert (run.checkpoints() / names.LAST).readlink() == Path("epoch_000_batch_000003.ckpt")


def test_nothing_is_deleted_if_no_checkpoint_is_intact(run, capsys):
    for item in Catalog(run.checkpoints()).committed():
        flip_byte(run.checkpoints(), item.name)
    before = sorted(path.name for path in run.checkpoints().iterdir())
    cairn("prune", run.path, "--yes", expect=1)
    assert "is intact: nothing was deleted" in capsys.readouterr().err
    assert sorted(path.name for path in run.checkpoints().iterdir()) == before


def test_a_backup_in_a_run_directory_is_not_the_run(run, tmp_path, capsys):
    backup = run.path / "backup"
    shutil.copytree(run.checkpoints(), backup, symlinks=True)
    flip_byte(backup, Catalog(backup).committed()[0].name)
    cairn("verify", backup, expect=1)
    cairn("prune", backup, "--yes", expect=1)
    assert left(run) == [0, 1, 2, 3]


def test_pruning_a_copy_leaves_the_run_alone(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy", symlinks=True)
    cairn("prune", tmp_path / "copy", "--yes")
    assert left(run) == [0, 1, 2, 3]
    assert [item.number for item in Catalog(tmp_path / "copy" / "checkpoints").committed()] == [1, 3]


def test_pruning_a_copy_leaves_checkpoints_outside_of_the_run_alone(run, tmp_path, capsys):
    outside = tmp_path / "outside"
    run.checkpoints().rename(outside)
    run.config_file.write_text(config(run, outside))
    record = json.loads(run.record_file.read_text()) | {"id": "toy"}  # that of its checkpoints
    run.record_file.write_text(json.dumps(record))
    claim.take(outside, "toy", str(run.path)).release()
    shutil.copytree(run.path, tmp_path / "copy", symlinks=True)
    cairn("prune", tmp_path / "copy", "--yes", expect=1)
    assert f"{tmp_path / 'copy'} is a copy of it" in capsys.readouterr().err
    assert left(run) == [0, 1, 2, 3]
    before = claim.read(outside)
    cairn("prune", run.path, "--yes")
    assert left(run) == [1, 3]
    assert claim.read(outside) == before


def test_leftovers_of_dead_writers_are_removed(run):
    (run.checkpoints() / names.temp_name("epoch_000_batch_000009.ckpt")).write_text("half")
    cairn("prune", run.path, "--yes", "--keep-last", "-1")
    assert Catalog(run.checkpoints()).leftovers() == []


def test_a_wrong_number_is_refused(run, capsys):
    cairn("prune", run.path, "--yes", "--keep-last", "-2", expect=1)
    assert "--keep-last and --keep-best: count=-2" in capsys.readouterr().err


def test_a_run_that_is_training_is_left_alone(run):
    hold = "import sys; from cairn.run.directory import *"
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
        cairn("prune", run.path, "--yes", expect=1)
        process.kill()
    assert left(run) == [0, 1, 2, 3]


def test_a_directory_without_a_run_is_refused(run, tmp_path, capsys):
    run.checkpoints().rename(tmp_path / "elsewhere")
    cairn("prune", "elsewhere", "--yes", expect=1)
    assert "prune needs the checkpoint.monitor of the run: pass a run directory" in capsys.readouterr().err
