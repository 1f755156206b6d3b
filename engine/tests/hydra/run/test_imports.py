"""The quick import of torch and Lightning: what it leaves out, and that other code still gets it."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[3] / "src"
QUICK = "import gc, sys\nfrom cairn.hydra.run import imports\nwith imports.quick():\n    "


def test_only_the_hydra_entry_changes_the_process_for_its_imports():
    users = [path for path in (SOURCES / "cairn").rglob("*.py") if "quick()" in path.read_text()]
    assert {path.relative_to(SOURCES).parts[1] for path in users} == {"hydra"}


def said(code):
    """Run code in a new interpreter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_is_imported_without_scipy_which_is_available_afterwards():
    code = f"{QUICK}import cairn.hydra.run.session\n"
    code += "print('scipy.signal' in sys.modules, 'scipy.stats' in sys.modules, gc.isenabled())"
    more = "\nimport scipy.signal\nprint(callable(scipy.signal.butter))"
    assert said(code + more).split() == ["False", "False", "True", "True"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "from scipy.signal import butter",
        "import scipy.signal; butter = scipy.signal.butter",
        "import scipy.signal.windows, scipy; butter = scipy.signal.butter",
        "from importlib.util import find_spec; assert find_spec('scipy.signal'); from scipy.signal import butter",
        "import inspect, scipy.signal, scipy; inspect.getmodule(gc.collect); from scipy.signal import butter",
    ],
)
def test_a_module_that_needs_scipy_during_the_imports_gets_it(code):
    assert said(f"{QUICK}{code}\nprint(callable(butter), sys.modules['scipy.signal'].__file__)").startswith("True /")


@pytest.mark.slow
def test_the_garbage_collector_is_off_during_the_imports():
    assert said(f"{QUICK}print(gc.isenabled())\nprint(gc.isenabled())").split() == ["False", "True"]


@pytest.mark.slow
def test_it_does_nothing_if_torch_is_already_imported():
    again = "import torch\nleft = gc.get_freeze_count()\nwith imports.quick():\n    print(gc.isenabled())"
    assert said(f"{QUICK}pass\n{again}\nprint(gc.get_freeze_count() == left > 0)").split() == ["True", "True"]


@pytest.mark.slow
def test_a_garbage_collector_that_was_off_stays_off():
    assert said(f"import gc; gc.disable()\n{QUICK}pass\nprint(gc.isenabled())") == "False\n"
