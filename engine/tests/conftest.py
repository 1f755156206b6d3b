"""Every run of the tests asks the same questions, none of them is about time, and no test leaves a setting behind."""

import gc
import os
import signal

import pytest
from hypothesis import settings
from tests.support.described import described
from tests.support.paths import PYTHONPATH
from tests.support.slurm import Slurm

from cairn.data import copies

settings.register_profile("fixed", derandomize=True, database=None, deadline=None, print_blob=True)
settings.load_profile("fixed")

os.environ["PYTHONPATH"] = PYTHONPATH  # processes that a test starts import this tree
os.environ["OMP_NUM_THREADS"] = "1"  # of those processes: another number rounds sums in another order
for name in [name for name in os.environ if name.startswith(("WANDB_", "SLURM_", "SBATCH_", "SUBMITIT_"))]:
    del os.environ[name]  # set in the shell that runs the tests

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and tests send it


@pytest.fixture(autouse=True, scope="module")
def _fewer_objects_to_search():
    """What exists by now stays to the end. Without this, each garbage collection searches all tests and modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _equal_data_is_tried_once():
    """A loader tries its data in a fork. A fork of this large process takes 60 ms, and many fits have equal data."""
    tried, answers = copies._tried, {}

    def once(trial, *roots):
        cells = [cell.cell_contents for cell in trial.__closure__ or ()]
        key = (trial.__code__, *(described(value) for value in (*cells, *roots)))
        if key not in answers:
            answers[key] = tried(trial, *roots)
        return answers[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "_tried", once)
        yield


@pytest.fixture(autouse=True)
def _environment():
    """What a test, or W&B in it, sets in the environment is gone with the test."""
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ} - {"PYTEST_CURRENT_TEST"}:
        if name not in before:
            del os.environ[name]
        elif os.environ.get(name) != before[name]:
            os.environ[name] = before[name]


@pytest.fixture(scope="session")
def slurm():
    """A real SLURM of this test process; skips where there can be none, unless the environment insists."""
    Slurm.require()
    with Slurm(num_cpus=8) as slurm:
        yield slurm


@pytest.fixture
def cluster(slurm):
    """The same SLURM with an idle node; what the test leaves there is cleared away."""
    yield slurm
    slurm.reset()
