"""`cairn prove` runs the project's own train.py with prove=true."""

import os

import pytest
from tests.support.cli import cairn
from tests.support.command import Process

from cairn.cli.main import main

SCRIPT = "import sys  # cairn.hydra\nprint(*sys.argv[1:])\nsys.exit(1)\n"


def test_the_arguments_reach_train_py_with_its_exit_code(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    given = ["--config-name", "foo", "data=x", "--stops", "3", "+a.b=1", "prove=false", "--json"]
    output = Process(["-m", "cairn", "prove", *given], fresh=True, cwd=tmp_path).end(expect=1)
    assert output == "prove=true --config-name foo data=x --stops 3 +a.b=1 --json\n"


def test_help_names_the_flags_and_other_commands_stay_strict(capsys):
    with pytest.raises(SystemExit):
        main(["prove", "--help"])
    assert "--stops N" in capsys.readouterr().out
    with pytest.raises(SystemExit) as leave:
        main(["ls", "overrides=1", "--unknown"])
    assert leave.value.code == 2


@pytest.mark.parametrize(
    ("script", "words"), [(None, "train.py does not exist here"), ("import torch", "does not use cairn.hydra")]
)
def test_a_directory_without_a_project_exits_with_2(tmp_path, monkeypatch, capsys, script, words):
    monkeypatch.chdir(tmp_path)
    if script is not None:
        (tmp_path / "train.py").write_text(script)
    cairn("prove", expect=2)
    assert words in capsys.readouterr().err


SCRIPTS = {
    "a FIFO": (os.mkfifo, "does not exist here"),
    "a device": (lambda path: os.symlink("/dev/zero", path), "does not exist here"),
    "a file of a terabyte": (lambda path: (path.touch(), os.truncate(path, 2**40)), "cannot be read"),
}


@pytest.mark.parametrize(("make", "words"), SCRIPTS.values(), ids=SCRIPTS)
def test_what_is_in_the_place_of_the_script_is_not_waited_for(tmp_path, monkeypatch, capsys, make, words):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "train.py")
    cairn("prove", expect=2)
    assert f"Error: train.py {words}" in capsys.readouterr().err
