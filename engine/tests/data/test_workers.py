"""Workers ignore the signals of a scheduler, and the main process can still end them."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from tests.support.command import Process
from torch.utils.data import DataLoader, Dataset

from cairn.data.workers import leave_signals_to_main, why_killed

OTHERS_KILL = "import os, sys; [os.kill(int(sys.argv[1]), int(number)) for number in sys.argv[2:]]"

# A persistent worker is still alive when the interpreter exits.
EXIT_WITH_A_WORKER = """
import torch
from torch.utils.data import DataLoader
from cairn.data.workers import leave_signals_to_main
loader = DataLoader(range(4), num_workers=1, persistent_workers=True, worker_init_fn=leave_signals_to_main)
list(loader)
"""


class Pids(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return os.getpid()


def test_a_worker_outlives_the_signals_of_a_scheduler():
    loader = DataLoader(Pids(), num_workers=1, prefetch_factor=1, worker_init_fn=leave_signals_to_main)
    batches = iter(loader)
    pid = next(batches).item()
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    # From a third process, because the parent of the worker may end it.
    subprocess.run([sys.executable, "-c", OTHERS_KILL, str(pid), *(str(int(n)) for n in numbers)], check=True)
    assert torch.cat(list(batches)).tolist() == [pid] * 7


KILLED = """
import os, signal
from torch.utils.data import DataLoader, Dataset
from cairn.data.workers import why_killed

class Killed(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

try:
    try:
        list(DataLoader(Killed(), num_workers=1))
    except (RuntimeError, OSError, EOFError) as error:  # torch sees it at one of several places
        found = why_killed(error)
except RuntimeError as error:  # raised by torch's handler of SIGCHLD, while the first error was on its way
    found = why_killed(error)
print(found, flush=True)
os._exit(0)
"""


def test_a_killed_worker_is_named_with_its_cause_and_a_cure(tmp_path):
    # In a process of its own: torch's handler may raise once more, wherever the process is by then, and Python prints
    # the error of a destructor. So the last line counts.
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    assert re.fullmatch(
        r"A data worker (\(process \d+\) was ended by a signal \(Killed\)|\(process \d+\) ended without an error|"
        r"ended while it handed over a batch)\. The system kills "
        r"processes when memory is short: use a smaller num_workers or batch size\.",
        Process([str(script)], fresh=False).end().splitlines()[-1],
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DataLoader worker (pid(s) 3, 4) exited unexpectedly"), "process 3, 4) ended without an error"),
        (
            RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. It is"),
            "Shared memory (/dev/shm) is",
        ),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Segmentation fault. "), "num_workers=0 shows wh"),
        (ValueError("DataLoader worker (pid 3) exited unexpectedly"), ""),
        (RuntimeError("something else"), ""),
    ],
)
def test_the_cause_follows_from_the_signal(error, expected):
    assert expected in why_killed(error)
    assert bool(expected) == bool(why_killed(error))


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset"), FileNotFoundError(2, "no socket")])
def test_a_broken_connection_to_a_worker_is_its_end_and_an_error_of_the_data_is_not(error, monkeypatch):
    class Broken(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise error

    def breaks(timeout):
        raise error

    with pytest.raises(type(error)) as of_the_data:
        list(DataLoader(Broken(), num_workers=0))
    assert why_killed(of_the_data.value) == ""
    batches = iter(DataLoader(Pids(), num_workers=1))
    monkeypatch.setattr(batches._data_queue, "get", breaks)
    with pytest.raises(type(error)) as of_the_handover:
        next(batches)
    batches._shutdown_workers()
    assert "ended while it handed over a batch" in why_killed(of_the_handover.value)


@pytest.mark.slow
def test_the_interpreter_exits_while_a_worker_is_alive():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", EXIT_WITH_A_WORKER]
    result = subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False)
    assert result.returncode == 0, result.stderr
