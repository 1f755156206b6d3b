"""`cairn export CHECKPOINT --to FILE`: the end of FILE chooses what is written."""

import json

import pytest
from tests.support.cli import cairn
from tests.support.exported import WithExample, committed, spec


def test_the_end_of_the_name_chooses_what_is_written(tmp_path, capsys):
    path = committed(tmp_path / "run", spec(WithExample))
    cairn("export", path, "--to", tmp_path / "a.safetensors", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["checkpoint"], found["files"]) == (path.name, [str(tmp_path / "a.safetensors")])
    assert found["num_bytes"] == (tmp_path / "a.safetensors").stat().st_size
    assert (tmp_path / "a.safetensors").stat().st_mode == path.stat().st_mode, "others may read it, too"
    cairn("export", path, "--to", tmp_path / "model-v1.0")
    assert "in every bit." in capsys.readouterr().out
    assert (tmp_path / "model-v1.0" / "README.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--to", "a.pt"], ".pt files are not written. Name a file that ends with .safetensors, .onnx or .ckpt"),
        (["--to", "a.onnx", "--batch-size", "0"], "--batch-size=0 must be a number from 1, or any"),
        (["--to", "a", "--batch-size", "2"], "--batch-size=2 is about ONNX files"),
        (["--to", "a.ckpt", "--overwrite"], "have no effect with --to FILE.ckpt"),
        (["--to", "s3://bucket/a"], "is an address, and cairn export reads the disk"),
        (["--to", "gone/below/a.onnx"], "There is no directory"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, why):
    monkeypatch.chdir(tmp_path)
    cairn("export", committed(tmp_path / "run", spec(WithExample)), *arguments, expect=1)
    assert why in capsys.readouterr().err


def test_a_run_with_single_files_has_none_to_put_together(tmp_path, capsys):
    path = committed(tmp_path / "run", spec(WithExample))
    for named in (path, path.parent):
        cairn("export", named, "--to", tmp_path / "a.ckpt", expect=1)
        assert f"{path} is a single file already: copy it." in capsys.readouterr().err
