"""`python train.py` with a Python that lacks the packages is one sentence."""

import subprocess
import sys

import pytest
from tests.support.paths import ENGINE, ROOT

from cairn.hydra import installed

SENTENCE = (
    "does not have hydra, omegaconf, torch, lightning, torchmetrics, numpy, yaml, rich, isal, dotenv: activate the "
    'environment of the project (. .venv/bin/activate), which "make install" creates.\n'
)


def python(*arguments):
    """Run a Python without any installed package."""
    return subprocess.run([sys.executable, "-I", "-S", *arguments], capture_output=True, text=True)


def test_a_script_ends_with_one_sentence():
    done = python(str(ROOT / "train.py"), "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f" {SENTENCE}")
    assert done.stderr.count("\n") == 1


def test_a_program_that_imports_the_decorator_gets_an_error_of_the_usual_class():
    source = f"import sys; sys.path.insert(0, {str(ENGINE / 'src')!r})\n"
    caught = "def load():\n  try: from cairn.hydra import main\n  except ModuleNotFoundError as e: print(e)\n"
    done = python("-c", f"{source}module = {{'__name__': 'other'}}; exec({caught!r}, module); module['load']()")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(SENTENCE)


def test_nothing_is_missing_here_and_an_old_python_is_named(monkeypatch):
    assert installed.problem() == ""
    monkeypatch.setattr(installed, "_OLDEST", (99, 0))
    assert "is too old (Python 3.11 or newer is needed): activate the environment" in installed.problem()


@pytest.mark.parametrize("name", installed._NEEDED)
def test_what_is_needed_can_be_imported_under_this_name(name):
    __import__(name)
