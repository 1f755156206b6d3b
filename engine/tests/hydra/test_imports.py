"""The first import of what a run needs: what is left out, and that nobody misses it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCES = Path(__file__).resolve().parents[2] / "src"
QUICK = "import gc, sys\nfrom cairn.hydra import imports\nwith imports.quick():\n    "


def said(code):
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_imported_without_scipy_which_is_there_afterwards():
    code = f"{QUICK}import cairn.hydra.session\n"
    code += "print('scipy.signal' in sys.modules, 'scipy.stats' in sys.modules, gc.isenabled())"
    more = "\nimport scipy.signal\nprint(callable(scipy.signal.butter))"
    assert said(code + more).split() == ["False", "False", "True", "True"]


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
def test_whoever_needs_it_meanwhile_gets_it(code):
    assert said(f"{QUICK}{code}\nprint(callable(butter), sys.modules['scipy.signal'].__file__)").startswith("True /")


def test_no_garbage_is_looked_for_meanwhile():
    assert said(f"{QUICK}print(gc.isenabled())\nprint(gc.isenabled())").split() == ["False", "True"]


def test_a_second_time_keeps_no_garbage_of_the_first():
    again = "import torch\nleft = gc.get_freeze_count()\nwith imports.quick():\n    print(gc.isenabled())"
    assert said(f"{QUICK}pass\n{again}\nprint(gc.get_freeze_count() == left > 0)").split() == ["True", "True"]


def test_what_was_switched_off_stays_off():
    assert said(f"import gc; gc.disable()\n{QUICK}pass\nprint(gc.isenabled())") == "False\n"
