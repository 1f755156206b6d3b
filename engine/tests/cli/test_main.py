"""The command `cairn` and `python -m cairn` are the same, and need the base dependencies only."""

import os
import re
import subprocess
import sys

import pytest
from tests.support.cli import cairn
from tests.support.paths import ENGINE

import cairn as library
from cairn import __main__ as entry_point

COMMANDS = (
    *("runs", "diff", "ls", "verify", "prune", "prove", "show", "check", "schema", "export", "push", "pull", "sync"),
    *("status", "report"),
)
EXTRAS = "hydra omegaconf submitit wandb matplotlib dotenv torch lightning"
"""Packages that only some commands need, or none."""
WITHOUT_EXTRAS = """
import sys

missing, sys.argv[1:] = sys.argv[1].split(), sys.argv[2:]

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args):
        return None if name.split(".")[0] in missing else self.finder.find_spec(name, *args)

sys.meta_path[:] = map(Without, sys.meta_path)
from cairn.__main__ import run
sys.exit(run())
"""


def test_the_installed_command_has_the_arguments_of_its_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cairn", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        entry_point.run()
    assert capsys.readouterr().out == f"cairn {library.__version__}\n"


def test_the_installed_command_is_the_one_that_is_declared():
    assert 'cairn = "cairn.__main__:run"' in (ENGINE / "pyproject.toml").read_text()


def test_help_names_all_commands(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cairn("--help")
    assert re.findall(r"^    (\w+) ", capsys.readouterr().out, flags=re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cairn(name, "--help")
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["ls"], ["ls", "a", "b"], ["prune", "a", "--keep-last", "x"]])
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        cairn(*arguments)
    assert "usage: cairn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["ls", "bare"], 0, "4 checkpoints"),
        (["ls", "latest"], 0, "resume: python train.py resume=logs/train/runs/one"),
        (["verify", "latest"], 0, "intact"),
        (["prune", "latest", "--yes"], 0, "Deleted 2"),
        (["status", "latest"], 0, "1 stopped of 1."),
        (["report", "latest", "--json"], 0, '"num_saves": 4'),
        (
            ["report", "latest"],
            1,
            f"needs matplotlib, which is not installed: pip install '{ENGINE.resolve()}[report]'\n",
        ),
        (["sync", "latest"], 1, f"needs wandb, which is not installed: pip install '{ENGINE.resolve()}[wandb]'\n"),
    ],
)
def test_without_the_extras_a_command_works_or_names_what_it_needs(run, tmp_path, arguments, code, expected):
    (tmp_path / "bare").symlink_to(run.checkpoints())
    environment = {**os.environ, "PYTHONPATH": str(ENGINE / "src"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, EXTRAS, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, code), done.stderr
    assert expected in done.stdout + done.stderr
