"""`cairn show`: the manifest and the configuration in a checkpoint file."""

import json

import pytest
import torch
from tests.support.cli import cairn

from cairn.store import names


def test_the_manifest_is_shown(run, capsys):
    cairn("show", run.checkpoints() / names.BEST)
    output = capsys.readouterr().out
    assert "name: epoch_000_batch_000002.ckpt" in output
    assert "score: 0.3" in output


def test_json_has_file_manifest_and_configuration(run, capsys):
    cairn("show", run.checkpoints() / names.LAST, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(run.checkpoints() / "epoch_000_batch_000004.ckpt")
    assert found["manifest"]["reasons"] == ["interval", "best"]
    assert found["config"] is None, "these small files do not hold one"


@pytest.mark.parametrize("name", ["gone.ckpt", "text.ckpt"])
def test_a_file_that_is_not_a_checkpoint_is_named(run, name, capsys):
    (run.checkpoints() / "text.ckpt").write_text("weights, honestly")
    cairn("show", run.checkpoints() / name, expect=1)
    assert name in capsys.readouterr().err


def test_the_configuration_in_the_file_is_shown(tmp_path, capsys):
    config = {"seed": 1, "checkpoint": {"save_interval": 15}}
    torch.save({"state_dict": {"w": torch.zeros(2)}, "cairn": {"config": config}}, tmp_path / "a.ckpt")
    cairn("show", tmp_path / "a.ckpt", "--json")
    assert json.loads(capsys.readouterr().out)["config"] == config
    cairn("show", tmp_path / "a.ckpt")
    output = capsys.readouterr().out
    assert "This file has no manifest." in output
    assert "save_interval: 15" in output


def test_a_file_that_could_run_code_is_refused_without_a_way_around(tmp_path, capsys):
    torch.save({"state_dict": {}, "x": tmp_path}, tmp_path / "a.ckpt")  # a path is not a plain value
    cairn("show", tmp_path / "a.ckpt", expect=1)
    error = capsys.readouterr().err
    assert "a.ckpt is refused: it names pathlib." in error
    assert "only tensors and plain values are loaded" in error
    assert "weights_only" not in error
