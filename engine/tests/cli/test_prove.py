"""`cairn prove` runs the project's own train.py with prove=true."""

import pytest
from tests.support.cli import cairn

SCRIPT = "import sys  # cairn.hydra\nprint(*sys.argv[1:])\nsys.exit(1)\n"


def test_the_arguments_reach_train_py_with_its_exit_code(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    cairn("prove", "model=mlp", "--stops", 3, "+a.b=1", "--keep", "runs", "--json", expect=1)
    assert capfd.readouterr().out == "model=mlp +a.b=1 prove=true --stops=3 --keep=runs --json\n"


@pytest.mark.parametrize(
    ("script", "words"), [(None, "train.py does not exist here"), ("import torch", "does not use cairn.hydra")]
)
def test_a_directory_without_a_project_exits_with_2(tmp_path, monkeypatch, capsys, script, words):
    monkeypatch.chdir(tmp_path)
    if script is not None:
        (tmp_path / "train.py").write_text(script)
    cairn("prove", expect=2)
    assert words in capsys.readouterr().err
