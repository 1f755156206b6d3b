"""Every run of the tests asks the same questions, none of them is about time, and no test leaves a setting behind."""

import gc
import os
import signal

import pytest
from hypothesis import settings
from tests.support import azurite, object_store
from tests.support.described import described
from tests.support.fault_proxy import FaultProxy
from tests.support.paths import PYTHONPATH
from tests.support.slurm import Slurm

from cairn.data import copies
from cairn.jobs.signals import STOP_SIGNALS

settings.register_profile("fixed", derandomize=True, database=None, deadline=None, print_blob=True)
settings.load_profile("fixed")

os.environ["PYTHONPATH"] = PYTHONPATH  # processes that a test starts import this tree
os.environ["OMP_NUM_THREADS"] = "1"  # of those processes: another number rounds sums in another order
_FOREIGN = ("WANDB_", "SLURM_", "SBATCH_", "SUBMITIT_", "AWS_", "AZURE_", "GOOGLE_")
for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
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
    """What a test, or W&B in it, sets in the environment is gone with the test; so are handlers of signals.

    Lightning puts the handlers that it found back when a fit fails, which may be ours: they would stay for all tests.
    """
    before, handlers = dict(os.environ), {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
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


@pytest.fixture(scope="session")
def store_server():
    """A real object store of this test process; skips where there can be none, unless the environment insists."""
    object_store.require()
    with object_store.ObjectStore() as server:
        yield server


@pytest.fixture
def store(store_server, monkeypatch):
    """The same store; `s3://` leads to it, here and in processes that the test starts."""
    for name, said in object_store.client_environment(store_server.url).items():
        monkeypatch.setenv(name, said)
    return store_server


@pytest.fixture
def bucket(store):
    """The name of an empty bucket."""
    return store.bucket()


@pytest.fixture(scope="session")
def azure_server():
    """An emulator of Azure's store; skips where there can be none, unless the environment insists."""
    object_store.require(azurite.why_not)
    with azurite.Azurite() as server:
        yield server


@pytest.fixture
def container(azure_server, monkeypatch):
    """The name of an empty container; `az://` leads to its emulator."""
    for name, said in azure_server.environment.items():
        monkeypatch.setenv(name, said)
    return azure_server.container()


@pytest.fixture
def proxy(store, monkeypatch):
    """A proxy between this test and the store: `s3://` leads through it."""
    with FaultProxy(store.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
